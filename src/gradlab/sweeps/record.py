"""A sweep on disk: ``sweep.json``, and the lock that every process of the sweep holds.

``sweep.json`` is for readers and may be a second old, or a few where there are thousands of points. What a point came to is decided by the folders of its runs, each of
which knows its point; so nothing is lost with the process that runs the sweep.
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from gradlab.config import Config
from gradlab.errors import ConfigError
from gradlab.tracking.folder import RunFolder, SweepFolder, write_atomically
from gradlab.tracking.journal import records

VERSION = 1
PRUNED = "pruned"
"""What a point comes to that early stopping has stopped as hopeless."""
DONE = ("finished", "diverged", PRUNED)
"""What a point can come to that needs no other try: divergence is a result."""
RHYTHM = 1.0
"""Seconds between two writings of ``sweep.json``, at least."""
SHARE = 0.04
"""Of a sweep's time that these writings may take: all points are written each time, so that larger sweeps write less often."""


@dataclass
class Point:
    """One point of a sweep.

    id: hash of its resolved configuration.
    name: by what distinguishes it.
    overrides: as Hydra was given them.
    config: frozen when the sweep began; None for a point of an earlier sweep that is not asked for now.
    status: waiting, queued (for a machine), running, finished, diverged, pruned, failed or killed.
    folder: of its last run, relative to the sweep's; None before the first.
    tries: how many runs were begun for it.
    reason: why it failed, was pruned or was killed.
    together: the ids of the points with which its last run was trained at once, its own included; of one alone empty.
    plan: how many are trained at once with it, and how that was chosen, in words; None for one that is always trained alone.
    steps: ``eager`` or ``compiled``, where its plan decides that; else None.
    goes_on: whether its last run is gone on with, from its checkpoint, rather than another one begun.
    """

    id: str
    name: str
    overrides: list[str]
    config: Config | None = field(repr=False)
    status: str = "waiting"
    folder: str | None = None
    tries: int = 0
    reason: str | None = None
    together: tuple[str, ...] = field(default=(), repr=False)
    plan: str | None = field(default=None, repr=False)
    steps: str | None = field(default=None, repr=False)
    goes_on: bool = field(default=False, repr=False)

    @property
    def done(self) -> bool:
        return self.status in DONE


@dataclass
class SweepRecord:
    """What ``sweep.json`` says. ``search`` is what a search is about; None of a sweep whose points are all known at first."""

    folder: SweepFolder
    id: str
    name: str
    command: list[str]
    created: str
    swept: list[str]
    points: list[Point]
    status: str = "running"
    parent_run_id: str | None = None
    search: dict[str, Any] | None = None
    _due: float = field(default=0.0, repr=False)

    @classmethod
    def new(
        cls, output_dir: Path, name: str, command: list[str], swept: list[str], points: list[Point]
    ) -> "SweepRecord":
        """A sweep in a new folder of its own."""
        folder = SweepFolder.create(output_dir, f"sweep_{name}")
        folder.runs.mkdir()
        created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return cls(folder, secrets.token_hex(8), name, command, created, swept, points)

    def write(self) -> None:
        """Write ``sweep.json`` now. A disk that takes no more does not end the sweep."""
        began = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self.parent_run_id = json.loads(self.folder.shipped.read_text())["run_id"]
        content = {"version": VERSION, "id": self.id, "name": self.name, "command": self.command}
        content |= {"created": self.created, "status": self.status, "swept": self.swept}
        content |= {"points": [], "parent_run_id": self.parent_run_id}
        content |= {"search": self.search} if self.search else {}
        # A point to a line: with ``indent``, points would be written by Python, ten times slower.
        points = ",\n".join(f"  {json.dumps(_plain(point))}" for point in self.points)
        before, nothing, after = json.dumps(content, indent=1).partition('"points": []')
        text = f'{before}"points": [\n{points}\n ]{after}' if points else before + nothing + after
        with contextlib.suppress(OSError):
            write_atomically(self.folder.record, text + "\n")
        now = time.monotonic()
        self._due = now + max(RHYTHM, (now - began) / SHARE)

    def write_in_time(self) -> None:
        """Write it if the last writing is a while ago."""
        if time.monotonic() > self._due:
            self.write()

    @property
    def expected(self) -> int:
        """Points that there will be, as far as that is known."""
        return max(len(self.points), int((self.search or {}).get("points", 0)))

    def counts(self) -> Counter[str]:
        """Points by status."""
        return Counter(point.status for point in self.points)

    def count(self, *statuses: str) -> int:
        return sum(point.status in statuses for point in self.points)


def _plain(point: Point) -> dict[str, Any]:
    ours = ("config", "together", "plan", "steps", "goes_on")
    return {key: value for key, value in vars(point).items() if key not in ours}


def read(folder: SweepFolder) -> dict[str, Any] | None:
    """What ``sweep.json`` in ``folder`` says; None where there is none that can be read."""
    try:
        content = json.loads(folder.record.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("version") == VERSION else None


class Try(NamedTuple):
    """One run of a point: what it came to (``killed`` without a result), and the points that were trained at once with it."""

    run: RunFolder
    status: str
    together: tuple[str, ...]


def tries(folder: SweepFolder) -> dict[str, list[Try]]:
    """For each point's id its runs, oldest first."""
    found: dict[str, list[Try]] = {}
    for run in folder.run_folders():
        first = next(records(run.journal), None)
        if first is not None and "point" in first[0]:
            status = str(result_of(run).get("status", "killed"))
            found.setdefault(first[0]["point"], []).append(Try(run, status, tuple(first[0].get("together", ()))))
    return found


def result_of(run: RunFolder) -> dict[str, Any]:
    """The run's result; empty where it has none."""
    try:
        result = json.loads(run.result.read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def restore(points: Sequence[Point], folder: SweepFolder) -> None:
    """Set every point to what the folders of its runs say."""
    found = tries(folder)
    for point in points:
        runs = found.get(point.id, [])
        point.tries = max(point.tries, len(runs))
        settled = [each for each in runs if each.status in DONE]
        if runs:
            run, point.status, point.together = (settled or runs)[-1]
            point.folder = str(run.path.relative_to(folder.path))
            point.reason = result_of(run).get("reason")
        elif point.status in ("queued", "running", *DONE):  # it was about to begin, or its folder was deleted
            point.status = "waiting"


def lock(folder: SweepFolder, patience: float = 180.0) -> IO[str]:
    """The open file whose lock says that a process of this sweep lives; workers and shipper inherit it.

    Waits for what is left of an earlier process: its workers end by themselves, and its shipper when all is shipped.

    Raises:
        ConfigError: the sweep is running.
    """
    file = folder.lock.open("a+")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            if (owner.isdigit() and Path(f"/proc/{owner}").exists()) or time.monotonic() > deadline:
                file.close()
                raise ConfigError(
                    f"resume=true: the sweep in {folder.path} is still running (process {owner or 'unknown'})."
                ) from None
            time.sleep(0.1)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
