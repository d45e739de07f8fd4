"""experiments/speed/README.md: every record that is there, as tables. Written anew whenever a part has been measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import cifar, growth, overhead, start, steps

HEADS = {
    "start": ["", "seconds", "of a processor", "of import torch, lightning"],
    "steps": [
        "workload",
        "way",
        "µs for each step",
        "of a processor",
        "MiB",
        "/ loop",
        "/ tuned",
        "/ compiled",
        "Lightning /",
        "floor /",
    ],
    "overhead": ["", "seconds", "added", "of a processor", "added", "their own share"],
    "growth": ["with", "value", "µs", "MiB"],
    "input": ["", "images a second", "gradlab is so many times as fast"],
    "cifar": ["", "runs", "seconds of training", "test accuracy"],
}
TITLES = {
    "start": "Start",
    "steps": "An optimizer step",
    "overhead": "Tracking, checkpoints, progress bar",
    "growth": "Growth",
    "input": "The input path",
    "cifar": "CIFAR-10 as fast as is known how",
}
MEANT = {
    "start": "Seconds of the wall clock, lowest and highest; of a processor; and what share of `import torch, lightning` alone.",
    "steps": "Median of the turns (lowest–highest), the most memory of the process (of the GPU where there is one), and ratios: ours over loops by "
    "hand (lower is better), stock Lightning and the machine's own limits over ours (higher is better), in brackets by processor time, "
    "which other work on the machine disturbs less. `max` is without the compilation.",
    "overhead": "The same training with and without, and the median of what each adds to the bare one beside it; by the clock, and of a processor by the "
    "training process; then what the journal, checkpoints and the bar took of a processor themselves, as a share of all else in that process, which "
    "other work on the machine does not disturb. Checkpoints come every six seconds.",
    "growth": "A network with two hidden layers on noise of MNIST's shape, one thread. Linear is what it should be.",
    "input": "Random crops and flips of CIFAR's pictures, batches of 128.",
    "cifar": "`experiment=cifar10_speed` on the pictures re-compressed as JPEG, 480 steps, beside the same network, steps and target by hand "
    "(`scripts/benchmarks/cifar_by_hand.py`); one after the other. Seconds from the first step to the last, mean ± deviation "
    "(lowest–highest), without compiling; accuracy with its 95 % confidence interval. By `scripts/gpu_check.sh`.",
}


def rows_of(part: str, results: Any) -> list[list[str]]:
    """The lines of a part's table."""
    if part == "steps":
        return [row for result in results for row in steps.rows(result)]
    if part == "input":
        rates = results["images_per_second"]
        ours = rates["gradlab"]["median"]
        return [
            [name, f"{each['median']:,.0f} ({each['min']:,.0f}–{each['max']:,.0f})", f"{ours / each['median']:.1f}"]
            for name, each in rates.items()
        ]
    return {"start": start.rows, "overhead": overhead.rows, "growth": growth.rows, "cifar": cifar.rows}[part](results)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; short rows are filled."""
    full = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *full]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(folder: Path) -> None:
    """Write ``README.md`` of ``folder`` from the records in it."""
    text = [
        "# How fast is it?\n",
        "Made by `scripts/bench.py` from the records beside this page; it says what each way is. The ways take turns in processes of their own. "
        "Machines are shared: read ratios, and how far lowest and highest are apart.\n",
    ]
    for part, title in TITLES.items():
        text.append(f"## {title}\n\n{MEANT[part]}\n")
        files = sorted(folder.glob(f"{part}_*.json"))
        for file in files:
            record = json.loads(file.read_text())
            versions = record["versions"]
            text.append(f"{record['hardware']}, torch {versions['torch']}, Python {versions['python']}:\n")
            results = record.get("results", record)
            text.append(table(HEADS[part], rows_of(part, results)) + "\n")
            if "note" in record:
                text.append(record["note"] + "\n")
        if part == "growth" and (folder / "growth_cpu.png").exists():
            text.append(
                "![Time of a step by batch and width, of an epoch by images, and time and memory by steps](growth_cpu.png)\n"
            )
        on_cpu = [file.stem.endswith("_cpu") for file in files]
        if part != "cifar" and all(on_cpu):
            text.append(f"On the CPU: {'above' if files else 'not measured'}. On a GPU: not measured.\n")
        elif not files:
            text.append("Not measured.\n")
    (folder / "README.md").write_text("\n".join(text))
