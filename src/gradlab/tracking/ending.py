"""Runs whose process is gone and which nothing says are over: finding them, and writing their end.

A run ends its own record however it ends, and one that is killed has a shipper that outlives it. Left are those that went
down together with their shipper (a machine that stopped, a container that ran out of memory) or had none.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.tracking.folder import RunFolder, SweepFolder, write_atomically
from gradlab.tracking.journal import Journal, Record, records
from gradlab.tracking.liveness import State, state_of

ENDS = {"killed": "KILLED", "failed": "FAILED"}
"""Statuses of ours that MLflow has words for; for it all others are FINISHED."""

VANISHED = "the process vanished"
_HEAD = 4096
"""Bytes of ``sweep.json`` that hold its status, before the list of its points."""


@dataclass(frozen=True)
class Unended:
    """A run or a sweep without an end.

    state: whether its process is there.
    process: as its journal recorded it, see ``liveness.identity``; empty where it did not.
    """

    folder: RunFolder
    state: State
    process: dict[str, Any]

    @property
    def where(self) -> str:
        """``process 123 on machine-7``."""
        return f"process {self.process.get('pid', 'unknown')} on {self.process.get('host', 'an unknown machine')}"


def unended(output_dir: Path) -> Iterator[Unended]:
    """The runs and sweeps directly in ``output_dir`` that have begun and not ended, oldest first.

    Costs one look at a file for each run that has a result; so it may be done at every start.
    """
    try:
        # Plain strings, and the file that most have first: of ten thousand runs this is 140 ms, with Path objects 670.
        names = sorted(entry.name for entry in os.scandir(output_dir))
        names = [name for name in names if not os.path.exists(f"{output_dir}/{name}/result.json")]  # noqa: PTH110
    except OSError:
        return
    for name in names:
        folder = SweepFolder(output_dir / name)
        if not folder.record.exists():
            found = _look_at(RunFolder(folder.path))
        else:
            found = _look_at(folder) if _sweep_runs_on(folder) else None
        if found:
            yield found


def end_gone_runs(output_dir: Path) -> list[RunFolder]:
    """Write the end of every run and sweep in ``output_dir`` whose process is certainly gone; returns those."""
    gone = []
    for found in unended(output_dir):
        with contextlib.suppress(OSError):  # a full disk, or a folder of another user
            if found.state is State.GONE and end_if_gone(found.folder):
                gone.append(found.folder)
    return gone


def end_if_gone(folder: RunFolder, over: bool = False) -> bool:
    """Write the end of a run or sweep whose process is gone; returns whether that was so.

    ``over`` says that it is, where this machine cannot tell. A run that is being written or shipped is left alone all the
    same: its process, its shipper or ``gradlab sync`` holds its lock.
    """
    with alone_with(folder) as alone:
        found = _look_at(folder) if alone else None
        if found is None or found.state is State.ALIVE or (found.state is State.UNKNOWN and not over):
            return False
        if isinstance(folder, SweepFolder) and folder.jobs.exists() and not over:
            return False  # its jobs may live on other machines
        if isinstance(folder, SweepFolder):
            for run in folder.run_folders():
                end_journal_of_the_dead(run)
            _close_sweep_record(folder)
        end_journal_of_the_dead(folder)
        return True


def end_journal_of_the_dead(folder: RunFolder, reason: str = VANISHED, status: str = "killed") -> None:
    """A run that vanished, killed or crashed, wrote no end: write it, so that it does not stay RUNNING for ever.

    One that vanished with its result written is what the result says.
    """
    last, _ = _last_and_process(folder.journal)
    if last is None or last["kind"] == "end":
        return
    tags = {"gradlab.status": status, "gradlab.reason": reason}
    with contextlib.suppress(OSError, ValueError, KeyError):
        tags["gradlab.status"] = status = json.loads(folder.result.read_text())["status"]
    if not folder.result.exists() and not isinstance(folder, SweepFolder):
        with contextlib.suppress(OSError):  # on a full disk the journal's end matters more
            folder.write_result({"status": status, "reason": reason})
    journal = Journal(folder.journal)
    try:
        journal.write("tags", tags=tags)
        journal.write("end", status=ENDS.get(status, "FINISHED"))
    finally:
        journal.close()


@contextlib.contextmanager
def alone_with(folder: RunFolder) -> Iterator[bool]:
    """Holds the lock of a journal, and says whether it was to be had: whoever ships one holds it, too."""
    try:
        file = _lock_file(folder).open()
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _lock_file(folder: RunFolder) -> Path:
    """The file that a shipper of this journal holds locked: the journal, or a sweep's lock for all its journals."""
    for path in (folder.path, folder.path.parent.parent):
        sweep = SweepFolder(path)
        if sweep.record.is_file() and sweep.lock.is_file():
            return sweep.lock
    return folder.journal


def _look_at(folder: RunFolder) -> Unended | None:
    """What is known of a run, or None where its journal is not there, or has its end."""
    try:
        last, process = _last_and_process(folder.journal)
    except (OSError, ValueError, KeyError):
        return None
    if last is None or last["kind"] == "end":
        return None
    return Unended(folder, state_of(process), process)


def _last_and_process(journal: Path) -> tuple[Record | None, dict[str, Any]]:
    """The last record, and the process that the run was last begun or resumed in."""
    last: Record | None = None
    process: dict[str, Any] = {}
    for record, _ in records(journal):
        last = record
        if record["kind"] in ("run", "resumed"):
            process = record.get("process", {})
    return last, process


def _sweep_runs_on(folder: SweepFolder) -> bool:
    try:
        with folder.record.open("rb") as file:
            return b'"status": "running"' in file.read(_HEAD)
    except OSError:
        return False


def _close_sweep_record(folder: SweepFolder) -> None:
    """``sweep.json`` of a sweep that is gone: killed, and so are its points that were running."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(folder.record.read_text())
        content["status"] = "killed"
        for point in content["points"]:
            if point["status"] == "running":
                point["status"] = "killed"
        write_atomically(folder.record, json.dumps(content, indent=1) + "\n")
