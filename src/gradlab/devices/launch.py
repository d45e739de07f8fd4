"""Starting and ending the processes of the further devices of a run. Needs no torch."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from gradlab.config import Config
from gradlab.errors import GradlabError
from gradlab.settings import cores


class Helpers:
    """The ranks from 1 on of one training. They import while rank 0 does, and train once they are told how.

    Args:
        config: of the run.
        log: file for what they say.
    """

    def __init__(self, config: Config, log: Path) -> None:
        self.config = config
        self.log = log
        self.size = config.trainer.devices
        self.port = _free_port()
        threads = str(max(1, cores() // self.size))
        with log.open("a") as file:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "gradlab.devices.helper"],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, "OMP_NUM_THREADS": threads},
                    start_new_session=True,  # signals are for rank 0, with which the others agree
                )
                for _ in range(1, self.size)
            ]
        for process in self._processes:
            self._tell(process, {"path": sys.path})

    def train(self, **how: Any) -> None:
        """Tell them what to train; ``how`` are the arguments of ``helper.train`` that all of them share."""
        for rank, process in enumerate(self._processes, start=1):
            about = {"rank": rank, "size": self.size, "port": self.port, "config": self.config.composed}
            self._tell(process, {**about, **how})

    def failure(self) -> GradlabError | None:
        """Why the training broke off, where a helper's end is the cause."""
        for rank, process in enumerate(self._processes, start=1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(timeout=2):
                    lines = self.log.read_text(errors="replace").strip().splitlines()
                    said = f" It said: {lines[-1]}" if lines else ""
                    return GradlabError(
                        f"The process of device {rank} ended with exit status {process.returncode}.{said}"
                    )
        return None

    def end(self, patience: float = 20.0) -> None:
        """Wait until they have ended, which those do that have nothing left to do, and end the others."""
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=patience)
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
            if process.poll() is None:
                process.kill()
                process.wait()
        with contextlib.suppress(OSError):
            if self.log.stat().st_size == 0:
                self.log.unlink()

    @staticmethod
    def _tell(process: "subprocess.Popen[bytes]", content: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which the others notice
            process.stdin.write(json.dumps(content).encode() + b"\n")
            process.stdin.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
