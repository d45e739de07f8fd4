"""Running gradlab's commands as a user does, and looking at what they left."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(__file__).resolve().parent / "models"
QUICK = ("trainer=cpu", "plots=false")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, without what would send a run's record elsewhere; our models can be imported."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR")}
    path = os.pathsep.join(filter(None, [str(MODELS), kept.get("PYTHONPATH")]))
    return {**kept, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **changes}


def start(
    folder: Path, *arguments: str, before: Callable[[], None] | None = None, **variables: str
) -> "subprocess.Popen[str]":
    """``python train.py`` in ``folder``; ``before`` is called in the new process, for its limits."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=before,
    )  # fmt: skip


def gradlab(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """``gradlab`` in ``folder``, to its end."""
    command = [sys.executable, "-m", "gradlab", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=300
    )


def run_in(outputs: Path) -> Path:
    """The folder of the one run in ``outputs``."""
    (only,) = [path for path in outputs.iterdir() if (path / "journal.jsonl").exists()]
    return only


def result_of(run: Path) -> dict[str, Any]:
    """The run's result; empty where it could not be written."""
    try:
        return dict(json.loads((run / "result.json").read_text()))
    except (OSError, ValueError):
        return {}


def last_lines(text: str, pattern: str = "gradlab:") -> str:
    """The message of ours in what a process wrote, on one line."""
    found = [line for line in text.splitlines() if re.search(pattern, line)]
    return (found or text.strip().splitlines() or [""])[-1][:400]


def clean(err: str) -> bool:
    """Whether a message, and no traceback, is what a user sees."""
    return "Traceback" not in err and "gradlab:" in err
