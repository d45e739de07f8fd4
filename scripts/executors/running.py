"""Sweeps as commands of their own, by the code of this checkout, and what they leave."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.journal import records

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [str(ROOT / "train.py")]
SMALL = ["model=logistic", "optimizer=sgd", "hydra.launcher.population=off", "plots=false"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """One that has ended: its folder, and the seconds of the whole command."""

    folder: SweepFolder
    seconds: float
    out: str

    @property
    def runs(self) -> list[RunFolder]:
        return self.folder.run_folders()

    def training(self) -> float:
        """Seconds that trainings and tests took."""
        return sum(float(json.loads(run.result.read_text())["seconds"]["training_and_test"]) for run in self.runs)

    def times(self) -> list[tuple[str, float, float]]:
        """Of each run: the process that it ran in, and when its record begins and ends, in seconds since 1970."""
        found = []
        for run in self.runs:
            lines = [record for record, _ in records(run.journal)]
            process = lines[0].get("process", {})
            found.append((f"{process.get('pid')}", lines[0]["time"] / 1000, lines[-1]["time"] / 1000))
        return sorted(found, key=lambda one: one[1])


def environment_of(**changes: str) -> dict[str, str]:
    """This process's environment, without what would send a record elsewhere, for programs that import this checkout."""
    hidden = {"MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR"}
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    path = [str(ROOT / "src"), changes.pop("PYTHONPATH", ""), kept.get("PYTHONPATH", "")]
    return {**kept, "NO_COLOR": "1", **changes, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def begin(folder: Path, program: list[str], arguments: list[str], **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *program, "-m", *arguments], cwd=folder, env=environment_of(**variables),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(folder: Path, process: "subprocess.Popen[str]", began: float) -> Sweep:
    out, _ = process.communicate(timeout=3000)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(out)
    (path,) = (folder / "outputs").glob("*_sweep_*")
    return Sweep(SweepFolder(path), seconds, out)


def run_sweep(folder: Path, program: list[str], arguments: list[str], **variables: str) -> Sweep:
    began = time.perf_counter()
    return finished(folder, begin(folder, program, arguments, **variables), began)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gradlab-executors-") as name:
        yield Path(name)
