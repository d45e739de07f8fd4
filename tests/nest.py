"""A process that has imported what commands import, and forks one for each command of the tests.

Importing torch and Lightning takes seconds of a processor, and the tests run a hundred commands. A forked one is a process like
another: its own arguments, folder, output and exit status, and threads of its own. What is in a command's start itself, or in its
environment, is tested with processes that import for themselves.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Nest:
    """Forks commands from a process that begins to import now."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs.fileno(), env=environment)
        theirs.close()

    def run(self, command: list[str], folder: Path, timeout: float) -> tuple[int, str, str]:
        """The status, output and errors of ``command``, which are the arguments of a Python.

        Raises:
            subprocess.TimeoutExpired: it took longer than ``timeout`` seconds; it is killed.
        """
        ends = [os.pipe(), os.pipe()]
        read: list[bytes] = [b"", b""]

        def reading(number: int) -> None:
            with os.fdopen(ends[number][0], "rb") as file:
                read[number] = file.read()

        readers = [threading.Thread(target=reading, args=(number,)) for number in range(2)]
        message = json.dumps({"command": command, "folder": str(folder)}).encode()
        socket.send_fds(self._socket, [message], [end for _, end in ends])
        for _, end in ends:
            os.close(end)
        for reader in readers:
            reader.start()
        self._socket.settimeout(timeout)
        pid = 0
        try:
            pid = json.loads(self._socket.recv(1024))
            status = json.loads(self._socket.recv(1024))
        except TimeoutError:
            if pid:
                os.kill(pid, signal.SIGKILL)
                self._socket.settimeout(None)
                self._socket.recv(1024)  # its status: the next answer is to the next command
            raise subprocess.TimeoutExpired(command, timeout) from None
        for reader in readers:
            reader.join()
        out, err = (each.decode().replace("\r\n", "\n") for each in read)
        return status, out, err

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def main() -> None:
    """The process: import, then fork for each request until there are no more."""
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from gradlab.sweeps import worker

    worker.prepare()
    assert threading.active_count() == 1, "a lock that another thread held would stay taken in what is forked"
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 2)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
                os.close(file)
            requests.close()
            become(json.loads(message))
            return
        for file in files:
            os.close(file)
        with contextlib.suppress(BrokenPipeError):
            requests.send(json.dumps(pid).encode())
            requests.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def become(request: dict[str, Any]) -> None:
    """Run a command as Python does: a file or ``-m`` with a module, then its arguments."""
    os.chdir(request["folder"])
    first, *arguments = request["command"]
    if first == "-m":
        module, *arguments = arguments
        sys.argv, sys.path[0] = [module, *arguments], request["folder"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *arguments], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
