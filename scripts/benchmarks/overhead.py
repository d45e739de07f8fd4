"""What tracking, checkpoints and the progress bar cost: the same training with and without them, in turns.

Each is ``train.py`` in a process of its own, MLflow's process beside it where it is tracked. Timed is what a run's ``result.json``
says of its training and test together, with all that happens between the steps; there is one validation, at the end.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.start import TRAIN
from benchmarks.turns import spread

BARE = ["tracking=none", "trainer.checkpoint_every=0", "plots=false"]
WAYS = {
    "bare": BARE,
    "with tracking": ["tracking=mlflow", *BARE[1:]],
    "with checkpoints": ["tracking=none", "trainer.checkpoint_every=0.1 minutes", "plots=false"],
    "with all, and a bar": ["tracking=mlflow", "trainer.checkpoint_every=0.1 minutes", "plots=false"],
}
"""A checkpoint every six seconds is fifty times as many as by default. A bar is drawn on a terminal only: a pseudo-terminal."""


def measure(overrides: list[str], steps: int, turns: int) -> dict[str, Any]:
    """Seconds of ``steps`` optimizer steps by each way, and the share that each adds to the bare one."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    fixed = [*overrides, "trainer.max_epochs=null", f"trainer.max_steps={steps}", "trainer.validate_every=100%"]
    for round_ in range(-1, turns):
        for name, extra in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                found = _seconds([*fixed, *extra], Path(folder), on_terminal=name.endswith("bar"))
            if round_ >= 0:
                seconds[name].append(found)
    pairs = {
        name: [each / bare - 1 for each, bare in zip(found, seconds["bare"], strict=True)]
        for name, found in seconds.items()
    }
    return {
        "overrides": overrides,
        "steps": steps,
        "turns": turns,
        "seconds": {name: spread(found) for name, found in seconds.items()},
        "added": {name: spread(found) for name, found in pairs.items() if name != "bare"},
    }


def _seconds(overrides: list[str], folder: Path, on_terminal: bool) -> float:
    command = [sys.executable, TRAIN, *overrides]
    if on_terminal:
        command = [sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)", *command]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=600)
    (result,) = folder.glob("outputs/*/result.json")
    told: float = json.loads(result.read_text())["seconds"]["training_and_test"]
    return told


def rows(result: dict[str, Any]) -> list[list[str]]:
    lines = []
    for name, each in result["seconds"].items():
        added = result["added"].get(name)
        told = f"{added['median']:+.1%} ({added['min']:+.1%} to {added['max']:+.1%})" if added else ""
        lines.append([name, f"{each['median']:.2f} ({each['min']:.2f}–{each['max']:.2f})", told])
    return lines
