"""Eight processes meet a store that does not exist yet, each with 5,000 rows."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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


if __name__ == "__main__":
    sys.exit(_ship(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))

from faults.comparison import differences  # noqa: E402 — the processes above need none of it
from faults.registry import Outcome, Setting, fault  # noqa: E402


@fault("many")
def many(setting: Setting) -> Iterator[Outcome]:
    """8 processes ship 5,000 rows each into a store that does not exist yet"""
    kind = f"{PROCESSES} processes, {PROCESSES * ROWS:,} rows"
    for number in range(setting.count):
        folder = setting.folder / str(number)
        uri, at = f"sqlite:///{folder}/mlflow.db", time.time() + 3
        runs = [folder / f"run{index}" for index in range(PROCESSES)]
        for run in runs:
            run.mkdir(parents=True)
        started = [
            subprocess.Popen(
                [sys.executable, __file__, str(run), uri, str(at)],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
            )
            for run in runs
        ]  # fmt: skip
        errors = [process.communicate(timeout=300)[1] for process in started]
        found = [differences(run, uri) for run in runs]
        lost = sum(missing for _, missing in found)
        failed = [process.returncode for process in started if process.returncode]
        said = "; ".join(text for texts, _ in found for text in texts[:2])
        said += " ".join(error[-200:] for error in errors) if failed else ""
        there = PROCESSES * ROWS - lost
        yield Outcome(kind, not lost and not failed and not said, said or f"{there:,} rows are there", lost)
