"""Helpers for tests that run commands as real processes, against real files and a real SQLite store."""

import atexit
import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.sweeps.seats import gpus_here
from nest import Nest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finished:
    """A process that has ended, and the folder it worked in."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs it made, oldest first."""
        return sorted(path for path in (self.folder / "outputs").glob("*") if (path / "journal.jsonl").exists())

    @property
    def run(self) -> Path:
        """The folder of the one run it made."""
        (only,) = self.runs
        return only

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "result.json").read_text()))


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what would send a run's record elsewhere."""
    hidden = {"MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "PYTEST_CURRENT_TEST"}
    return {**{key: value for key, value in os.environ.items() if key not in hidden}, "NO_COLOR": "1", **changes}


def train(folder: Path, *arguments: str, timeout: float = 900, **variables: str) -> Finished:
    """``python train.py`` with ``arguments``, in ``folder``."""
    return execute([sys.executable, str(ROOT / "train.py"), *arguments], folder, timeout, **variables)


def gradlab(folder: Path, *arguments: str, timeout: float = 900, **variables: str) -> Finished:
    """``gradlab`` with ``arguments``, in ``folder``."""
    return execute([sys.executable, "-m", "gradlab", *arguments], folder, timeout, **variables)


def execute(command: list[str], folder: Path, timeout: float, **variables: str) -> Finished:
    """A command, forked from a process that has imported what ours do where it is one of ours and its environment is as usual.

    Not where there is a GPU: libraries may set it up as they are imported, and that is not for a forked process.
    """
    wanted = environment(**variables)
    ours = command[1:3] == ["-m", "gradlab"] or command[1] == str(ROOT / "train.py")
    if ours and wanted == _usual_environment() and not gpus_here():
        return Finished(*_nest().run(command[1:], folder, timeout), folder)
    done = subprocess.run(command, cwd=folder, env=wanted, capture_output=True, text=True, timeout=timeout)
    return Finished(done.returncode, done.stdout, done.stderr, folder)


@functools.cache
def _usual_environment() -> dict[str, str]:
    return environment()


@functools.cache
def _nest() -> Nest:
    nest = Nest(_usual_environment())
    atexit.register(nest.close)
    return nest


_usual_environment()  # before a test changes it
