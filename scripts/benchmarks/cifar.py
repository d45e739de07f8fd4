"""CIFAR-10 as fast as is known how, beside the same training by hand: seconds and accuracies over seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlab.analysis.statistics import estimate

Runs = list[dict[str, float]]
"""Of each seed the ``seconds`` of its steps, and its ``test_accuracy``."""


def finished(runs: Sequence[dict[str, Any]]) -> Runs:
    """Those of gradlab's runs, by their ``result.json``, that finished."""
    return [
        {"seconds": run["seconds"]["training_steps"], "test_accuracy": run["metrics"]["test/accuracy"]}
        for run in runs
        if run["status"] == "finished"
    ]


def by_hand(file: Path) -> Runs:
    """What ``cifar_by_hand.py`` has written; nothing where it has not."""
    return list(json.loads(file.read_text())["runs"]) if file.exists() else []


def rows(ways: Mapping[str, Runs]) -> list[list[str]]:
    """A line of the table for each way."""
    lines = []
    for way, runs in ways.items():
        seconds, accuracies = ([run[key] for run in runs] for key in ("seconds", "test_accuracy"))
        spread = f" ± {statistics.stdev(seconds):.3f}" if len(seconds) > 1 else ""
        took = f"{statistics.fmean(seconds):.3f}{spread} ({min(seconds):.3f}–{max(seconds):.3f})"
        mean = estimate(accuracies)
        lines.append([way, str(len(runs)), took, f"{mean.mean:.2%} ± {mean.half:.2%}"])
    return lines
