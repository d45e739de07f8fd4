"""Is what a store has of a run what its journal says?"""

import math
from collections import Counter
from pathlib import Path

from gradlab.tracking.journal import records
from gradlab.tracking.replay import MARK_TAG, RUN_TAG
from gradlab.tracking.store import open_client


def differences(run: Path, uri: str) -> tuple[list[str], int]:
    """What differs, in words; and how many metric rows of the journal the store lacks. Nothing may be there twice."""
    client = open_client(uri)
    journal = [record for record, _ in records(run / "journal.jsonl")]
    opening = journal[0]
    experiment = client.get_experiment_by_name(opening["experiment"])
    if experiment is None:
        return ["no experiment"], len(journal)
    found = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{opening['id']}'")
    if len(found) != 1:
        return [f"{len(found)} MLflow runs of this run"], len(journal)
    stored = found[0]
    said, lost = [], 0
    rows: dict[str, Counter[tuple[int, float, int]]] = {}
    tags: dict[str, str] = {}
    end = None
    for record in journal:
        if record["kind"] == "metrics":
            for name, text in record["values"].items():
                if math.isfinite(value := float(text)):
                    rows.setdefault(name, Counter())[record["step"], value, record["time"]] += 1
                elif f"{text} at step {record['step']}" not in stored.data.tags.get(f"{MARK_TAG}.{name}", ""):
                    said.append(f"{name} is not marked as {text} at step {record['step']}")
        elif record["kind"] in ("run", "tags"):
            tags |= record["tags"]
        elif record["kind"] == "resumed":
            tags.pop("gradlab.reason", None)  # why it had ended
        elif record["kind"] == "end":
            end = record["status"]
    for name, wanted in rows.items():
        there = Counter(
            (row.step, row.value, row.timestamp) for row in client.get_metric_history(stored.info.run_id, name)
        )
        # One row that is in the journal twice, in the same millisecond, is one for MLflow.
        missing, more = set(wanted) - set(there), sum((there - Counter(set(wanted))).values())
        lost += len(missing)
        if missing or more:
            said.append(f"{name}: {len(missing)} rows missing, {more} too many")
    said += [f"metric {name} is not in the journal" for name in set(stored.data.metrics) - set(rows)]
    said += [
        f"parameter {key}" for key, value in opening["params"].items() if stored.data.params.get(key) != str(value)
    ]
    said += [f"tag {key}" for key, value in tags.items() if stored.data.tags.get(key) != str(value)]
    if end is not None and stored.info.status != end:
        said.append(f"status {stored.info.status} instead of {end}")
    return said, lost
