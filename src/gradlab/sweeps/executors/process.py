"""A worker process on this machine, seen from outside: starting it, talking with it, and saying what it died of."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from gradlab.sweeps.nursery import WORKER, Forked, Nursery
from gradlab.sweeps.seats import Seat

Message = dict[str, Any]


class WorkerProcess:
    """``python -m gradlab.sweeps.worker`` at ``seat``, for as long as this process lives.

    Args:
        seat: what it may use.
        log: file for what it says before and between points.
        lock: open file of the sweep's lock, which the process holds with the sweep; None away from the sweep's process.
        path: where it imports from; as this process does by default.
        folder: its working directory; this process's by default.
        nursery: forks it, with this process's path and folder; None for a Python of its own.
    """

    program: tuple[str, ...] = WORKER
    """What Python runs. A benchmark puts a worker in its place that trains nothing."""

    def __init__(
        self,
        seat: Seat,
        log: Path,
        lock: IO[str] | None = None,
        path: list[str] | None = None,
        folder: Path | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self.log = log
        self._rest = b""
        self._process: subprocess.Popen[bytes] | Forked
        with opened(log) as file:
            if nursery is not None and lock is not None:
                self._process = nursery.fork(seat, file, lock)
            else:
                self._process = self._python(seat, file, lock, path, folder)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self.events = self._process.stdin, self._process.stdout
        self.send({"do": "start", "path": path or sys.path})

    def _python(
        self, seat: Seat, log: IO[str], lock: IO[str] | None, path: list[str] | None, folder: Path | None
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", "-u", *self.program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **seat.environment(), **_importing(path)},
            cwd=folder,
            pass_fds=(lock.fileno(),) if lock else (),
            start_new_session=True,  # Ctrl-C is for the sweep, which ends its workers in good order
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Message) -> None:
        with contextlib.suppress(OSError):  # it has died, which is noticed where its events are read
            self._commands.write(json.dumps(command).encode() + b"\n")
            self._commands.flush()

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    def read(self) -> list[Message] | None:
        """The events that have come, which must be waited for elsewhere; None when there will be no more."""
        received = os.read(self.events.fileno(), 1 << 16)
        if not received:
            return None
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Let it go: an idle one ends at once, and so does a busy one."""
        with contextlib.suppress(OSError):
            self._commands.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self.kill()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.events.close()
        with contextlib.suppress(OSError):
            self._commands.close()
        with contextlib.suppress(OSError):
            if self.log.stat().st_size == 0:
                self.log.unlink()

    def died_of(self) -> str:
        """What ended the process, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        if not self.dead:
            return "its worker stopped answering"
        status = self._process.wait()
        if status >= 0:
            return f"its worker ended with exit status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hints = {"SIGKILL": ", perhaps for want of memory", "SIGSEGV": ", a fault in compiled code"}
        return f"its worker was killed by {name}{hints.get(name, '')}"

    def last_words(self) -> str:
        """The last line of its log, or of the nursery that was to fork it."""
        said = ""
        with contextlib.suppress(OSError):
            said = self.log.read_text(errors="replace")
        if not said and isinstance(self._process, Forked):
            said = self._process.nursery.said()
        lines = said.strip().splitlines()
        return lines[-1] if lines else ""


def _importing(path: list[str] | None) -> dict[str, str]:
    """The variable that lets a process find this package, before it is told the whole ``path``."""
    return {} if path is None else {"PYTHONPATH": os.pathsep.join(entry for entry in path if entry)}


def opened(log: Path) -> IO[str]:
    """``log`` for appending; nothing in its place on a disk that takes no more."""
    try:
        log.parent.mkdir(exist_ok=True)
        return log.open("a")
    except OSError:
        return Path(os.devnull).open("w")
