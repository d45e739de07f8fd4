"""Replays a journal into an MLflow store, from where the last replay of it ended.

Values that are no finite numbers go into tags and the run's description instead of its metrics: MLflow turns infinity into
1.8e308, and its pages leave out the whole curve of a metric that ends in NaN.

The shipper process replays while a run trains, ``gradlab sync`` does so afterwards; it is the same thing. Replaying twice
changes nothing: rows keep their journal's times, and MLflow keeps one of equal rows.
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.secrecy import redacted
from gradlab.settings import without_secret
from gradlab.tracking import rows
from gradlab.tracking.folder import RunFolder, write_atomically
from gradlab.tracking.journal import Record, records
from gradlab.tracking.store import experiment_id, open_client, sqlite_file
from gradlab.tracking.views import charts_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

BATCH_ROWS, BATCH_PARAMS, BATCH_TAGS = 1000, 100, 100  # MLflow's limits for one log_batch
HELD_ROWS = 10_000
"""Rows that are read before they are shipped."""
MARKS, NOTE = 20, 5000
"""Values of a metric that are marked as not finite, and characters of a description, at most."""
MARK_TAG = "gradlab.not_finite"
"""Tags ``gradlab.not_finite.<metric>`` say where a metric was not finite, and what it was."""
RUN_TAG = "gradlab.run"
"""Tag that holds the run folder's name and random id; by it a replay finds the MLflow run it once made."""


class Replay:
    """One journal on its way into one store.

    ``mlflow.json`` in the run's folder records which MLflow run it is and how many bytes of the journal are there.

    Args:
        folder: of the run.
        uri: of the store.
        opened: returns a client of it, for replays that share one; None for one of its own.
        parents: the MLflow runs of sweeps by their ids in journals, as far as replays that share this have asked for them.
    """

    def __init__(
        self,
        folder: RunFolder,
        uri: str,
        opened: "Callable[[], MlflowClient] | None" = None,
        parents: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.uri = uri
        self._parents = {} if parents is None else parents
        self._opened = opened or (lambda: open_client(uri))
        self.state = self._from_the_start()
        # None yet, or damaged: the run is found again by its tag.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            recorded = json.loads(folder.shipped.read_text())
            if recorded["tracking_uri"] == self.state["tracking_uri"]:
                self.state.update(recorded)
        self._client: MlflowClient | None = None
        self._marked = False

    def _from_the_start(self) -> dict[str, Any]:
        state = {"tracking_uri": without_secret(self.uri), "run_id": None, "offset": 0, "ended": False, "error": None}
        return {**state, "not_finite": {}}

    @property
    def ended(self) -> bool:
        """Whether the journal's end is in the store."""
        return bool(self.state["ended"])

    def pending(self) -> int:
        """How many records of the journal are not in the store."""
        return sum(1 for _ in records(self.folder.journal, self.state["offset"])) if self.folder.journal.exists() else 0

    def refresh(self) -> None:
        """Go back to where the file says, if whoever goes on with the run has set it back: see ``retaking.cut``."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            recorded = json.loads(self.folder.shipped.read_text())
            if recorded["tracking_uri"] == self.state["tracking_uri"] and recorded["offset"] < self.state["offset"]:
                self.state.update(recorded)

    def ship(self) -> None:
        """Ship what the journal holds and the store does not. Raises whatever the store raises; may be called again."""
        if self._client is None and self.state["run_id"] and not self._run_exists():
            self.state = self._from_the_start()  # the store was deleted, or is another of the same name
        offset = shipped = self.state["offset"]
        metrics: list[Metric] = []
        tags: dict[str, str] = {}
        for record, offset in records(self.folder.journal, shipped):
            if record["kind"] == "metrics":
                metrics += self._metrics(record)
                if len(metrics) < HELD_ROWS:
                    continue
            elif record["kind"] == "tags":
                tags |= record["tags"]
                continue
            self._log(metrics, tags)
            metrics, tags = [], {}
            if record["kind"] != "metrics":
                getattr(self, f"_ship_{record['kind']}")(record)
            self._save(offset)
        if offset != self.state["offset"]:
            self._log(metrics, tags)
            self._save(offset)

    def fail(self, error: BaseException) -> None:
        """Record why shipping does not go on."""
        said = str(error).strip().splitlines()[0] if str(error).strip() else ""
        self.state["error"] = redacted(f"{type(error).__name__}: {said}")
        self._write()

    def _save(self, offset: int) -> None:
        self.state.update(offset=offset, error=None)
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk shipping goes on; without the file, a later one starts anew
            write_atomically(self.folder.shipped, json.dumps(self.state, indent=2) + "\n")

    def end(self, status: str) -> None:
        """End the run in the store where its journal could not."""
        if self.state["run_id"] and not self.ended:
            self.client.set_terminated(self.run_id, status)

    def _run_exists(self) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(self.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    @property
    def client(self) -> "MlflowClient":
        if self._client is None:
            self._client = self._opened()
        return self._client

    @property
    def run_id(self) -> str:
        return str(self.state["run_id"])

    def _metrics(self, record: Record) -> "list[Metric]":
        from mlflow.entities import Metric

        finite = []
        for name, value in record["values"].items():
            if math.isfinite(number := float(value)):
                finite.append(Metric(key=name, value=number, timestamp=record["time"], step=record["step"]))
            else:
                self._mark(name, value, record["step"])
        return finite

    def _mark(self, name: str, value: str, step: int) -> None:
        """Note that a metric's value at ``step`` is not finite; a row that is seen twice is noted once."""
        marks = self.state["not_finite"].setdefault(name, [])
        text = f"{value} at step {step}"
        if text not in marks and len(marks) < MARKS:
            marks.append(text)
        self._marked = True

    def _log(self, metrics: "list[Metric]", tags: dict[str, str], params: "Mapping[str, object] | None" = None) -> None:
        self._write_rows(metrics, tags, params or {})
        if self._marked:
            self._write_rows([], self._marks())
            self._marked = False

    def _write_rows(
        self, metrics: "list[Metric]", tags: dict[str, str], params: "Mapping[str, object] | None" = None
    ) -> None:
        from mlflow.entities import Param, RunTag

        told, given = ({key: str(value) for key, value in own.items()} for own in (tags, params or {}))
        if not (metrics or told or given):
            return
        client, file = self.client, sqlite_file(self.uri)  # the client first, since it makes the store
        if file and rows.insert(file, self.run_id, metrics, told, given):
            return
        for metric_rows in _parts(metrics, BATCH_ROWS):
            client.log_batch(self.run_id, metrics=metric_rows)
        for param_rows in _parts([Param(*each) for each in given.items()], BATCH_PARAMS):
            client.log_batch(self.run_id, params=param_rows)
        for tag_rows in _parts([RunTag(*each) for each in told.items()], BATCH_TAGS):
            client.log_batch(self.run_id, tags=tag_rows)

    def _marks(self) -> dict[str, str]:
        said = {name: "; ".join(marks) for name, marks in self.state["not_finite"].items()}
        lines = [f"- `{name}`: {text}" for name, text in said.items()]
        note = "**Not finite**, and so missing in the charts:\n\n" + "\n".join(lines)
        tags = {f"{MARK_TAG}.{name}": text for name, text in said.items()}
        return {**tags, "mlflow.note.content": note[:NOTE]}

    def _ship_run(self, record: Record) -> None:
        experiment = experiment_id(self.client, self.uri, record["experiment"])
        made = self._tagged(experiment, record["id"])
        # The tag is there from the first instant: what fails after it is tried again on the same run.
        tags = {RUN_TAG: record["id"], **record["tags"], **self._parent(experiment, record.get("parent"))}
        if made is None:
            run_id = self.client.create_run(experiment, record["time"], tags, run_name=record["name"]).info.run_id
        self.state.update(experiment_id=experiment, run_id=made or run_id)
        self._log([], tags if made else {}, record["params"])

    def _tagged(self, experiment: str, identity: str) -> str | None:
        """The MLflow run of a journal's run; None where the store has none."""
        file = sqlite_file(self.uri)
        found = rows.tagged(file, experiment, RUN_TAG, identity) if file else None
        if found is None:
            runs = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{identity}'", max_results=1)
            found = [run.info.run_id for run in runs]
        return found[0] if found else None

    def _parent(self, experiment: str, identity: str | None) -> dict[str, str]:
        """The tag that nests a sweep's run below the sweep, where that is in the store."""
        if identity is None:
            return {}
        if identity not in self._parents:
            found = self._tagged(experiment, identity)
            if found is None:
                return {}
            self._parents[identity] = found
        return {"mlflow.parentRunId": self._parents[identity]}

    def _ship_resumed(self, record: Record) -> None:
        self.client.update_run(self.run_id, status="RUNNING")
        if "gradlab.reason" in self.client.get_run(self.run_id).data.tags:  # why it had ended
            self.client.delete_tag(self.run_id, "gradlab.reason")
        self.state["ended"] = False

    def _ship_charts(self, record: Record) -> None:
        for key, state in charts_view(self.run_id, record["swept"]).items():
            self.client.set_experiment_tag(self.state["experiment_id"], key, state)

    def _ship_artifact(self, record: Record) -> None:
        path = self.folder.path / Path(record["path"])
        if not path.exists():  # deleted since; the rest of the record is none the less worth having
            self._log(
                [], {f"gradlab.missing.{Path(record['path']).name}": "the file was gone when it was to be shipped"}
            )
        elif path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), record["folder"])
        else:
            self.client.log_artifact(self.run_id, str(path), record["folder"])

    def _ship_end(self, record: Record) -> None:
        self.client.set_terminated(self.run_id, record["status"], record["time"])
        self.state["ended"] = True


def _parts(entities: list[Any], size: int) -> list[list[Any]]:
    return [entities[first : first + size] for first in range(0, len(entities), size)]
