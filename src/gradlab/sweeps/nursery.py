"""A process that imports everything once and forks the workers of a sweep: the second starts in milliseconds, not in seconds.

Importing torch and Lightning costs two seconds of a core and 0.3 GB; forked workers share both. The nursery forks before any
thread, random number or device has been used, has one thread itself, and so leaves nothing half done in its children. It is
for Linux, for workers of one thread on the CPU; every other worker is a Python of its own.

``python -m gradlab.sweeps.nursery`` has a socket as its standard input. The first message says where to import from;
each further one asks for a worker and carries its standard input, output and error, and the sweep's lock. Answers say the
process id of a worker that was forked, or the status of one that has ended. End of input ends the nursery, not its workers:
those end with their own input.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any, NoReturn

from gradlab.sweeps.seats import Seat, cores_here, gpus_here
from gradlab.sweeps.settings import Launching

PROGRAM = ("-m", "gradlab.sweeps.nursery")
WORKER = ("-m", "gradlab.sweeps.worker")


def can_fork(seat: Seat) -> bool:
    """Whether a worker at ``seat`` may be forked. More threads than one, or a GPU, are set up as a library is imported."""
    return sys.platform == "linux" and seat.threads == 1 and not seat.device


def foresee(settings: Launching, points: int) -> "Nursery | None":
    """A nursery that begins to import while the sweep is still composed, where it will most likely be wanted."""
    alone = points == 1 or settings.workers == 1 or cores_here() == 1
    guess = Seat(1, "")
    if settings.executor != "local" or alone or gpus_here() or not can_fork(guess):
        return None
    return Nursery(guess)


class Forked:
    """A worker that a nursery forks; as ``subprocess.Popen``, as far as ``WorkerProcess`` needs that."""

    def __init__(self, nursery: "Nursery", stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.nursery = nursery
        self.stdin = stdin
        self.stdout = stdout
        self.told_pid: int | None = None
        self.told_status: int | None = None

    @property
    def pid(self) -> int:
        """Its process id, once it has one: the nursery imports first."""
        while self.told_pid is None and self.poll() is None:
            time.sleep(0.005)
        return self.told_pid or 0

    def poll(self) -> int | None:
        self.nursery.listen()
        return self.told_status

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(PROGRAM, timeout or 0)
            time.sleep(0.005)
        return status

    def kill(self) -> None:
        if self.pid and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The sweep's side.

    Args:
        seat: of the workers; all of them have one like it.
    """

    program: tuple[str, ...] = PROGRAM
    """What Python runs."""
    forks: tuple[str, ...] = WORKER
    """The program that each of its workers is as good as."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this lives
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asked: deque[Forked] = deque()
        self._living: list[Forked] = []
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", *self.program],
                stdin=theirs.fileno(),
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, **seat.environment()},
                start_new_session=True,  # Ctrl-C is for the sweep
            )
        self._send({"path": sys.path}, [])

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    def fork(self, seat: Seat, log: IO[Any], lock: IO[str]) -> Forked:
        """A new worker at ``seat``, which begins as soon as everything is imported."""
        (their_in, our_in), (our_out, their_out) = os.pipe(), os.pipe()
        worker = Forked(self, os.fdopen(our_in, "wb"), os.fdopen(our_out, "rb"))
        request = {"environment": seat.environment(), "folder": str(Path.cwd())}
        self._send(request, [their_in, their_out, log.fileno(), lock.fileno()])
        os.close(their_in)
        os.close(their_out)
        self._asked.append(worker)
        self._living.append(worker)
        return worker

    def _send(self, message: dict[str, Any], files: list[int]) -> None:
        with contextlib.suppress(OSError):  # it has died, which ``listen`` notices
            socket.send_fds(self._socket, [json.dumps(message).encode()], files)

    def listen(self) -> None:
        """Take in what it has to tell of its workers, without waiting."""
        dead = self.dead  # asked first: what a dead one had said is read to its end
        with contextlib.suppress(OSError):
            while told := self._socket.recv(4096, socket.MSG_DONTWAIT):
                answer = json.loads(told)
                if "born" in answer:
                    self._asked.popleft().told_pid = answer["born"]
                    continue
                for worker in self._living:
                    if worker.told_pid == answer["pid"]:
                        worker.told_status = answer["status"]
        if dead:
            for worker in self._living:
                if worker.told_pid is None:
                    worker.told_status = self._process.returncode
                elif worker.told_status is None and not _lives(worker.told_pid):
                    worker.told_status = -signal.SIGKILL  # unseen; what took the nursery has mostly taken both
        self._living = [worker for worker in self._living if worker.told_status is None]

    def said(self) -> str:
        """All that it has said, which is nothing while all is well."""
        with contextlib.suppress(OSError):
            self._log.seek(0)
            return self._log.read().decode(errors="replace")
        return ""

    def close(self, at_once: bool = False) -> None:
        """End it, ``at_once`` where it has no workers; those end with their own input."""
        self._socket.close()
        if at_once:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        if not self.dead:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def main() -> NoReturn:
    """The process: import, then fork a worker for each request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:] = json.loads(requests.recv(1 << 20))["path"]
    from gradlab.sweeps import worker

    worker.prepare()
    ended, wake = os.pipe()
    for end in (ended, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        for file in (requests, ended):
            selector.register(file, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == ended:
                    with contextlib.suppress(BlockingIOError):
                        os.read(ended, 4096)
                    _reap(requests)
                    continue
                message, files, _, _ = socket.recv_fds(requests, 1 << 16, 4)
                if not message:
                    os._exit(0)
                _fork(json.loads(message), files, requests, [requests.fileno(), ended, wake, selector.fileno()])


def _reap(requests: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            with contextlib.suppress(OSError):  # the sweep is gone
                requests.send(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _fork(request: dict[str, Any], files: list[int], requests: socket.socket, ours: list[int]) -> None:
    assert threading.active_count() == 1, "a lock that another thread held would stay taken in the child"
    pid = os.fork()
    if pid == 0:
        _become_a_worker(request, files, ours)
    for file in files:
        os.close(file)
    requests.send(json.dumps({"born": pid}).encode())


def _become_a_worker(request: dict[str, Any], files: list[int], ours: list[int]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, file in enumerate(files[:3]):  # a lock, the fourth, stays open as it is
            os.dup2(file, number)
            os.close(file)
        for file in ours:
            os.close(file)
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        from gradlab.sweeps import worker

        worker.main()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
