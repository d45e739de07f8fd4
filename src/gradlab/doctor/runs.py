"""Runs that nothing says are over, and journals that are not in their store."""

import contextlib
import functools
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from gradlab.doctor.finding import GOOD, NOTE, WRONG, Finding
from gradlab.tracking.ending import Unended, end_if_gone, unended
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.liveness import State
from gradlab.tracking.store import open_client, tracking_uri
from gradlab.tracking.sync import recorded_uri, ship_quietly, unshipped

MANY = 10


def look_at_runs(output_dir: Path, over: list[Path], uri: str | None) -> Iterator[Finding]:
    """Ends what is gone, in its folder and in its store, and says so; tells what is pending.

    over: runs that somebody says are over, though this machine cannot know.
    """
    ended: list[RunFolder] = []
    for path in over:
        folder = SweepFolder(path) if SweepFolder(path).record.exists() else RunFolder(path)
        if end_if_gone(folder, over=True):
            ended.append(folder)
            yield Finding("runs", NOTE, f"{folder.path.name} was over, as you say: it is KILLED now")
        else:
            yield Finding(
                "runs", WRONG, f"{path} has ended already, is still alive, or is no run", "Nothing was changed."
            )
    running = 0
    for found in unended(output_dir):
        if found.state is State.GONE and end_if_gone(found.folder):
            ended.append(found.folder)
            yield Finding("runs", NOTE, f"{found.folder.path.name}: {found.where} is gone, so the run is KILLED now")
        elif found.state is State.UNKNOWN:
            yield _of_elsewhere(found)
        else:
            running += 1
    pending = []
    failed: dict[str, str] = {}  # by store: one that is down is asked once
    for folder in unshipped(output_dir, ended):
        if not _is_over(folder):
            continue
        store = tracking_uri(uri or recorded_uri(folder))
        if store not in failed:
            error = ship_quietly(folder, store, functools.partial(open_client, store))
            if error is None:
                yield Finding("runs", NOTE, f"{folder.path.name} was not all in MLflow, and is now")
                continue
            failed[store] = error
        pending.append((folder, failed[store]))
    for folder, error in pending[:MANY]:
        shown = shlex.quote(str(folder.path))
        yield Finding("runs", WRONG, f"{folder.path.name} is not all in MLflow: {error}", f"gradlab sync {shown}")
    if len(pending) > MANY:
        yield Finding("runs", WRONG, f"and {len(pending) - MANY} more are not", f"gradlab sync {output_dir}/*")
    if not pending:
        with contextlib.suppress(OSError):
            count = sum(1 for path in output_dir.iterdir() if (path / "journal.jsonl").exists())
            yield Finding(
                "runs", GOOD, f"{count:,} runs and sweeps in {output_dir}, {running} of them running, none pending"
            )
    if not output_dir.is_dir():
        yield Finding("runs", NOTE, f"no runs yet in {output_dir}")


def _of_elsewhere(found: Unended) -> Finding:
    shown = shlex.quote(str(found.folder.path))
    return Finding(
        "runs",
        NOTE,
        f"{found.folder.path.name} has no end, and whether {found.where} still runs cannot be known here",
        f"Where you know that it is over: gradlab doctor --over {shown}",
    )


def _is_over(folder: RunFolder) -> bool:
    """Whether the journal has its end: one that is being written has a shipper of its own."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return bool(json.loads(folder.journal.read_bytes().splitlines()[-1])["kind"] == "end")
    return False
