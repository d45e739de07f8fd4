"""Eight processes meet a store that does not exist yet, each with 5,000 rows."""

import functools
import threading
import time
from pathlib import Path

from faults import forked
from faults.comparison import differences
from faults.registry import Outcome, Setting, fault

PROCESSES, ROWS = 8, 5000


def _ship(folder: Path, uri: str, at: float) -> int:
    """One process: a journal of 5,000 rows, shipped as a run that is over has it shipped."""
    from gradlab.tracking.folder import RunFolder
    from gradlab.tracking.journal import Journal
    from gradlab.tracking.shipper import ship_until_over

    run = RunFolder(folder)
    journal = Journal(run.journal)
    journal.write("run", id=f"{folder.name}.0", name=folder.name, experiment="gradlab", params={}, tags={})
    for step in range(ROWS):
        journal.metrics(step, {"train/loss": 1 / (step + 1)})
    journal.write("end", status="FINISHED")
    journal.close()
    over = threading.Event()
    over.set()
    time.sleep(max(0.0, at - time.time()))
    return ship_until_over(run, uri, over)


@fault(full=20)
def many(setting: Setting, number: int) -> Outcome:
    """8 processes ship 5,000 rows each into a store that does not exist yet"""
    folder = setting.place(number)
    uri, at = f"sqlite:///{folder}/mlflow.db", time.time() + 3
    runs = [folder / f"run{index}" for index in range(PROCESSES)]
    for run in runs:
        run.mkdir(parents=True)
    started = [forked.work(functools.partial(_ship, run, uri, at), run / "err.txt") for run in runs]
    statuses = [forked.ended(process) for process in started]
    found = [forked.called(functools.partial(differences, run, uri)) for run in runs]
    lost = sum(missing for _, missing in found)
    said = "; ".join(text for texts, _ in found for text in texts[:2])
    said += " ".join((run / "err.txt").read_text()[-200:] for run in runs) if any(statuses) else ""
    there = PROCESSES * ROWS - lost
    return Outcome(
        f"{PROCESSES} processes, {PROCESSES * ROWS:,} rows", not lost and not any(statuses) and not said,
        said or f"{there:,} rows are there", lost,
    )  # fmt: skip
