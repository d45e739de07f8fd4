"""How long a start takes: the commands that train nothing, and a run on the digits up to its first optimizer step.

Real processes, in turns. What a person waits for is the wall clock; on a machine that others use too, the seconds of processor time say
more about the program, so both are told. ``import torch, lightning`` is what any program with Lightning waits for before its first
line of its own.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.turns import spread

TRAIN = str(Path(__file__).resolve().parents[2] / "train.py")
FIRST_STEP = str(Path(__file__).parent / "first_step.py")
COMMANDS = {
    "import torch, lightning": ["-c", "import torch, lightning"],
    "--help": [TRAIN, "--help"],
    "--cfg job": [TRAIN, "--cfg", "job"],
    "a choice mistyped": [TRAIN, "optimizer=adm"],
    "a key mistyped": [TRAIN, "optimizer.momentum=0.9"],
    "first step, digits": [FIRST_STEP, "tracking=none"],
    "first step, digits, MLflow": [FIRST_STEP],
    "first step by hand": [FIRST_STEP, "by hand"],
}


def measure(turns: int, only: list[str] | None = None) -> dict[str, Any]:
    """Seconds of each command, wall clock and processor, and what they are of ``import torch, lightning``."""
    wall: dict[str, list[float]] = {name: [] for name in only or COMMANDS}
    processor: dict[str, list[float]] = {name: [] for name in wall}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(-1, turns):
            for name in wall:
                seconds, cpu = _run(COMMANDS[name], folder)
                if round_ >= 0:
                    wall[name].append(seconds)
                    processor[name].append(cpu)
    found = {name: {"wall_seconds": spread(wall[name]), "cpu_seconds": spread(processor[name])} for name in wall}
    reference = found.get("import torch, lightning")
    ratios = {}
    if reference:
        for name, each in found.items():
            if name.startswith("first step"):
                ratios[name] = {
                    clock: each[clock]["median"] / reference[clock]["median"]
                    for clock in ("wall_seconds", "cpu_seconds")
                }
    return {"turns": turns, "commands": found, "of import torch, lightning": ratios}


def _run(arguments: list[str], folder: str) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{' '.join(arguments)}: {os.linesep}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(result: dict[str, Any]) -> list[list[str]]:
    lines = []
    for name, each in result["commands"].items():
        wall, cpu = each["wall_seconds"], each["cpu_seconds"]
        ratio = result["of import torch, lightning"].get(name)
        told = f"{ratio['wall_seconds']:.2f} ({ratio['cpu_seconds']:.2f} by processor time)" if ratio else ""
        lines.append(
            [name, f"{wall['median']:.2f} ({wall['min']:.2f}–{wall['max']:.2f})", f"{cpu['median']:.2f}", told]
        )
    return lines
