"""The sweep's side of its workers: starting one, talking with it, and saying what it died of."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from gradlab.config import Config
from gradlab.sweeps.record import Point
from gradlab.sweeps.seats import Seat

Message = dict[str, Any]


class Worker:
    """A worker process at ``seat``. ``points`` is what it trains now, ``measuring`` the group it measures, ``said`` its
    last ``progress`` event.

    Args:
        seat: what it may use.
        log: file for what it says before and between points.
        lock: open file of the sweep's lock, which the process holds with the sweep.
    """

    def __init__(self, seat: Seat, log: Path, lock: IO[str]) -> None:
        self.seat = seat
        self.log = log
        self.points: list[Point] = []
        self.measuring: str | None = None
        self.ready = False
        self.said: Message = {}
        self._rest = b""
        with _opened(log) as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "gradlab.sweeps.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **seat.environment()},
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C is for the sweep, which ends its workers in good order
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self.events = self._process.stdin, self._process.stdout
        self._send({"do": "start", "path": sys.path})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def idle(self) -> bool:
        return self.ready and not self.points and self.measuring is None

    def run(self, points: list[Point], folders: list[Path], parent: str, command: list[str]) -> None:
        """Have it train ``points``, each in a folder of its own; several as a population."""
        self.points, self.said = list(points), {}
        told = [
            {"point": point.id, "name": point.name, "config": point.config.composed, "folder": str(folder)}
            for point, folder in zip(points, folders, strict=True)
            if point.config is not None
        ]
        self._send({"do": "run", "points": told, "parent": parent, "command": command})

    def measure(self, group: str, config: Config) -> None:
        """Have it measure how fast the points of ``group``, of which ``config`` is one, are trained."""
        self.measuring = group
        self._send({"do": "measure", "config": config.composed})

    def prune(self, point: Point, reason: str) -> None:
        """Have it end ``point``, and no other, after the step that it is in."""
        self._send({"do": "prune", "point": point.id, "reason": reason})

    def stop(self) -> None:
        """Have it end its point after the step that it is in."""
        self._send({"do": "stop"})

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

    def _send(self, command: Message) -> None:
        with contextlib.suppress(OSError):  # it has died, which is noticed where its events are read
            self._commands.write(json.dumps(command).encode() + b"\n")
            self._commands.flush()


def _opened(log: Path) -> IO[str]:
    """``log`` for appending; nothing in its place on a disk that takes no more."""
    try:
        log.parent.mkdir(exist_ok=True)
        return log.open("a")
    except OSError:
        return Path(os.devnull).open("w")
