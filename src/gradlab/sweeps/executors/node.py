"""What Ray runs on a node: holds a worker process there, and passes commands and events on."""

import contextlib
import io
import json
import os
import select
import shutil
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

from gradlab.sweeps.executors.process import WorkerProcess
from gradlab.sweeps.seats import Seat

Message = dict[str, Any]
OVER = ("done", "again")
"""Events after which a point is no more the worker's."""


class Node:
    """An actor. Its methods are called from several threads: ``read`` waits, and a command must not wait for it.

    Args:
        cpus: of the worker.
        gpus: whether it has GPUs: those that Ray lets it see.
        sweep: the sweep's folder on the machine that runs the sweep.
        identity: of the sweep, by which its folder is known here, on storage that both share.
        scratch: where runs go if it is not here.
        working: the sweep's working directory, for relative paths of data.
        path: where the sweep's process imports from.
    """

    def __init__(
        self, cpus: int, gpus: bool, sweep: str, identity: str, scratch: str, working: str, path: list[str]
    ) -> None:
        self.shared = _identity(Path(sweep)) == identity
        self.scratch = Path(scratch).expanduser() / identity
        self._folders: dict[str, Path] = {}
        self._lock = threading.Lock()
        seat = Seat(cpus, os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else "")
        # The shipped code before an installed one, and both before what is only on the other machine.
        ours = [str(Path.cwd()), *sys.path, *(entry for entry in path if Path(entry).exists())]
        log = Path(tempfile.mkdtemp(prefix="gradlab-worker-")) / "log"
        folder = Path(working) if Path(working).is_dir() else None
        self.process = WorkerProcess(seat, log, path=list(dict.fromkeys(ours)), folder=folder)

    def send(self, command: Message) -> None:
        """Pass a command on; where the sweep's folder is not here, with folders that are."""
        if command["do"] == "run" and not self.shared:
            command = {**command, "points": [self._here(point) for point in command["points"]]}
        with self._lock:
            self.process.send(command)

    def read(self, seconds: float) -> list[Message]:
        """The events that come within ``seconds``."""
        if self.process.dead and not select.select([self.process.events], [], [], 0)[0]:
            return [self._died()]
        if not select.select([self.process.events], [], [], seconds)[0]:
            return []
        events = self.process.read()
        if events is None:
            return [self._died()]
        return [self._with_files(event) if event["event"] in OVER else event for event in events]

    def _died(self) -> Message:
        said = self.process.last_words()
        return {"event": "died", "reason": self.process.died_of() + (f": {said}" if said else "")}

    def _here(self, point: Message) -> Message:
        folder = self.scratch / Path(point["folder"]).name
        folder.mkdir(parents=True, mode=0o700)
        self._folders[point["point"]] = folder
        return {**point, "folder": str(folder)}

    def _with_files(self, event: Message) -> Message:
        folder = self._folders.pop(event["point"], None)
        if folder is None:
            return event
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.name != ".running":
                    archive.write(path, path.relative_to(folder))
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        return {**event, "archive": packed.getvalue(), "made_in": str(folder)}


def _identity(sweep: Path) -> str | None:
    """Of the sweep in a folder; None where there is none."""
    try:
        return str(json.loads((sweep / "sweep.json").read_text())["id"])
    except (OSError, ValueError, KeyError):
        return None
