"""What tracking, checkpoints and the progress bar cost: the same training with and without them, in turns.

Each is ``train.py`` in a process of its own, MLflow's process beside it where it is tracked. Timed is what a run's ``result.json``
says of its training and test together, with all that happens between the steps; there is one validation, at the end. Beside it stand
the processor seconds of the training process, which other work on the machine disturbs less, and what of them the journal, checkpoints
and the bar themselves took (``timed_training.py``): that share is of one process by one clock, so a machine's moods are not in it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.turns import spread

TIMED = str(Path(__file__).with_name("timed_training.py"))
BARE = ["tracking=none", "trainer.checkpoint_every=0", "plots=false"]
WAYS = {
    "bare": BARE,
    "with tracking": ["tracking=mlflow", *BARE[1:]],
    "with checkpoints": ["tracking=none", "trainer.checkpoint_every=0.1 minutes", "plots=false"],
    "with all, and a bar": ["tracking=mlflow", "trainer.checkpoint_every=0.1 minutes", "plots=false"],
}
"""A checkpoint every six seconds is fifty times as many as by default. A bar is drawn on a terminal only: a pseudo-terminal."""


def measure(overrides: list[str], steps: int, turns: int) -> dict[str, Any]:
    """Seconds of ``steps`` optimizer steps by each way, by the clock and of a processor, and the share that each adds to the bare one."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    shares: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    fixed = [*overrides, "trainer.max_epochs=null", f"trainer.max_steps={steps}", "trainer.validate_every=100%"]
    for round_ in range(-1, turns):
        for name, extra in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                found, parts = _seconds([*fixed, *extra], Path(folder), on_terminal=name.endswith("bar"))
            if round_ >= 0:
                taken[name].append(found)
                rest = found[1] - sum(parts.values())
                shares[name].append(
                    {part: took / rest for part, took in parts.items()} | {"together": sum(parts.values()) / rest}
                )
    result: dict[str, Any] = {"overrides": overrides, "steps": steps, "turns": turns}
    for place, (seconds, added) in enumerate((("seconds", "added"), ("processor", "processor_added"))):
        of_each = {name: [found[place] for found in all_] for name, all_ in taken.items()}
        result[seconds] = {name: spread(found) for name, found in of_each.items()}
        result[added] = {
            name: spread([each / bare - 1 for each, bare in zip(found, of_each["bare"], strict=True)])
            for name, found in of_each.items()
            if name != "bare"
        }
    result["shares"] = {
        name: {part: spread([each[part] for each in found]) for part in found[0]} for name, found in shares.items()
    }
    return result


def _seconds(overrides: list[str], folder: Path, on_terminal: bool) -> tuple[tuple[float, float], dict[str, float]]:
    processor = folder / "processor_seconds"
    command = [sys.executable, TIMED, str(processor), *overrides]
    if on_terminal:
        command = [sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)", *command]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=600)
    (result,) = folder.glob("outputs/*/result.json")
    told: float = json.loads(result.read_text())["seconds"]["training_and_test"]
    parts = json.loads(processor.read_text())
    return (told, parts.pop("processor")), parts


def rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name,
            *_columns(result, name, "seconds", "added"),
            *_columns(result, name, "processor", "processor_added"),
            ", ".join(
                f"{part} {share['median']:.2%}" for part, share in result.get("shares", {}).get(name, {}).items()
            ),
        ]
        for name in result["seconds"]
    ]


def _columns(result: dict[str, Any], name: str, seconds: str, added: str) -> list[str]:
    each, more = result[seconds][name], result[added].get(name)
    told = f"{more['median']:+.1%} ({more['min']:+.1%} to {more['max']:+.1%})" if more else ""
    return [f"{each['median']:.2f} ({each['min']:.2f}–{each['max']:.2f})", told]
