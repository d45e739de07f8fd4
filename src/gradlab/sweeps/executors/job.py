"""What runs in a job of SLURM: a worker process on the node, whose commands and events are files of the sweep's folder."""

import json
import os
import select
import shutil
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from gradlab.sweeps.executors.process import WorkerProcess
from gradlab.sweeps.seats import Seat, gpus_here

Message = dict[str, Any]
RHYTHM = 1.0
"""Seconds between two looks at the commands."""
CHECKPOINT = 60.0
"""Seconds that a job waits, once it was told to go, for the end of a step and the checkpoint."""
GRACE = 600.0
"""Seconds for which a job that was preempted waits to be killed, at most."""


class Lines:
    """A file of JSON lines that another process appends to, perhaps on another machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> list[Message]:
        """The whole lines that have come since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                received = file.read()
        except FileNotFoundError:
            return []
        end = received.rfind(b"\n") + 1
        self._offset += end
        return [json.loads(line) for line in received[:end].splitlines()]


def append(path: Path, content: Message) -> None:
    """Append one line, whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(content) + "\n").encode())
    finally:
        os.close(descriptor)


def job_folders(folder: Path) -> list[Path]:
    """The folders of the jobs that have been submitted, in that order."""
    return sorted(path.parent for path in folder.glob("*/job.json"))


@dataclass
class Job:
    """Trains what is in ``folder``'s commands, and goes on with it when it was requeued.

    folder: of the job.
    cpus: cores that it has.
    gpus: whether it has GPUs: all those that SLURM lets it see.
    path: where to import from.
    """

    folder: Path
    cpus: int
    gpus: bool
    path: list[str]

    def __call__(self) -> None:
        """All commands, one after the other; ends with the event ``end``, unless SLURM shall requeue the job."""
        self._going = threading.Event()
        # A thread talks with the worker, because signals, which may come at any instant, interrupt the main one only.
        self._talking = threading.Thread(target=self._talk)
        self._talking.start()
        signal.signal(signal.SIGTERM, self._preempted)
        self._talking.join()

    def checkpoint(self) -> Any:
        """What submitit calls when the time is nearly up: ends with a checkpoint; then the job is requeued, to run this again."""
        import submitit

        self._going.set()
        self._talking.join()
        return submitit.helpers.DelayedSubmission(Job(self.folder, self.cpus, self.gpus, self.path))

    def _preempted(self, signum: int, frame: FrameType | None) -> None:
        """SLURM takes the job's place. It requeues a job that it has to kill, and not one that ends by itself: so wait for that."""
        self._going.set()
        self._talking.join()
        time.sleep(GRACE)

    def _talk(self) -> None:
        device = ",".join(gpus_here()) if self.gpus else ""
        worker = WorkerProcess(Seat(self.cpus, device), self.folder / "log", path=self.path)
        try:
            died_of = self._pass_all(worker)
        finally:
            worker.kill()
        # A signal to the job reaches its worker as well, and perhaps first.
        if died_of and not self._going.wait(5):
            self._tell({"event": "died", "reason": died_of})
        if not self._going.is_set():
            self._tell({"event": "end"})

    def _pass_all(self, worker: WorkerProcess) -> str | None:
        """Pass commands and events on until all is done; returns what the worker died of, if it did."""
        commands, waiting = Lines(self.folder / "commands.jsonl"), deque[Message]()
        done = {event["point"] for event in Lines(self.folder / "events.jsonl").read() if event["event"] in OVER}
        self._busy: set[str] = set()
        looked, until = 0.0, None
        while True:
            if time.monotonic() - looked > RHYTHM:
                looked = time.monotonic()
                for command in commands.read():
                    if command["do"] in ("prune", "stop"):
                        worker.send(command)
                    else:
                        waiting.append(command)
            if self._going.is_set():
                if until is None:
                    until = time.monotonic() + CHECKPOINT
                    worker.send({"do": "stop"})
                if not self._busy or time.monotonic() > until:
                    return None
            elif not self._busy:
                if not waiting:
                    return None
                self._begin(worker, waiting.popleft(), done)
            if not self._pass_on(worker):
                return worker.died_of()

    def _begin(self, worker: WorkerProcess, command: Message, done: set[str]) -> None:
        if command["do"] == "measure":
            self._busy = {"measured"}
            worker.send(command)
            return
        points = [point for point in command["points"] if point["point"] not in done]
        if points:
            self._busy = {point["point"] for point in points}
            worker.send({**command, "points": _going_on(points)})

    def _pass_on(self, worker: WorkerProcess) -> bool:
        """Wait a moment for events, and write them down; returns whether the worker lives."""
        if not select.select([worker.events], [], [], RHYTHM / 2)[0]:
            return not worker.dead
        events = worker.read()
        for event in events or []:
            if event["event"] in OVER:
                self._busy.discard(event["point"])
                if self._going.is_set() and event.get("status") == "killed":
                    continue  # it goes on when the job is back
            elif event["event"] == "measured":
                self._busy.discard("measured")
            self._tell(event)
        return events is not None

    def _tell(self, event: Message) -> None:
        append(self.folder / "events.jsonl", event)


OVER = ("done", "again")
"""Events after which a point is no more the worker's."""


def _going_on(points: list[Message]) -> list[Message]:
    """``points``, to be gone on with where an earlier life of the job has begun them. Those of a population begin together."""
    begun = [path for point in points if (path := Path(point["folder"]) / "journal.jsonl").exists()]
    if len(begun) == len(points):
        return [{**point, "goes_on": True} for point in points]
    for journal in begun:  # nothing has been trained yet
        for path in journal.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return points
