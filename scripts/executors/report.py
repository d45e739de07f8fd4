"""The page that experiments/executors/README.md is."""

import os
from typing import Any

from executors.running import Row

TITLES = {
    "faults": "Points and rows, while things break",
    "overhead": "What a point costs beside its training, by executor; two workers",
    "workers": "Wall time against workers, with points that sleep",
    "points": "Points of nothing, without MLflow",
    "points_tracked": "Points of nothing, with MLflow on SQLite",
}


def report(known: dict[str, Row]) -> str:
    """The results as a page."""
    lines = [
        "# Running points somewhere",
        "",
        "Made by `scripts/bench_executors.py`, whose first lines say what each table means; `results.json` has the figures in full.",
        "Clusters are of one machine: their nodes share its cores, so these figures are about overhead and about what is lost, not",
        "about speed; none had a GPU. Other work ran on the machine beside the faults and the points with MLflow; the rest had it to itself.",
    ]
    for name, title in TITLES.items():
        if name not in known:
            continue
        rows = known[name]["rows"]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {title}", "", f"On {known[name]['machine']}, {len(os.sched_getaffinity(0))} cores.", ""]
        lines += ["| " + " | ".join(key.replace("_", " ") for key in keys) + " |", "|" + "---|" * len(keys)]
        lines += ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,.3g}" if isinstance(value, float) else "" if value is None else str(value)
