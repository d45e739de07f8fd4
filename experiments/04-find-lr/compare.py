"""Hold the learning-rate finder against full grids: one row for each sweep over ``optimizer.lr``.

    python experiments/04-find-lr/compare.py outputs/*_sweep_* --into experiments/04-find-lr

Each sweep holds one model and optimizer, its grid of rates and seeds. The best rate is that of the highest mean of the best
validation accuracy over the seeds; a rate with a run that diverged has none. The finder gets the configuration of the
sweep's first run, and nothing of what the sweep found.
"""

import argparse
import csv
import json
import math
import statistics
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gradlab.config import Config, build_config
from gradlab.finder.figure import draw
from gradlab.finder.search import find

NEAR = 3.0
"""The promise: within this factor of the best rate of the grid, or "not sure"."""


def grid(sweep: Path) -> tuple[Config, dict[float, float]]:
    """The configuration of a sweep's first run, and the mean best validation accuracy of every rate without a diverged run."""
    accuracies: dict[float, list[float]] = {}
    configs = []
    for folder in sorted((sweep / "runs").iterdir()):
        result = json.loads((folder / "result.json").read_text())
        composed = OmegaConf.load(folder / "config.yaml")
        assert isinstance(composed, DictConfig)
        configs.append(composed)
        finished = result["status"] == "finished"
        value = result["metrics"]["best/val_accuracy"] if finished else math.nan
        accuracies.setdefault(float(composed.optimizer.lr), []).append(value)
    means = {rate: statistics.fmean(values) for rate, values in sorted(accuracies.items())}
    return build_config(configs[0]), {rate: mean for rate, mean in means.items() if math.isfinite(mean)}


def row(sweep: Path, pictures: Path | None) -> dict[str, Any]:
    config, means = grid(sweep)
    best = max(means, key=lambda rate: means[rate])
    found = find(config, config.data.load)
    if pictures is not None:
        draw(found, pictures / f"{config.optimizer_name}_{config.model.name}_{config.data.name}.png")
    about = {
        "model": config.model.name,
        "data": config.data.name,
        "optimizer": config.optimizer_name,
        "best of grid": best,
        "accuracy": means[best],
        "suggestion": found.suggestion,
        "sure": found.sure,
        "doubt": found.reading.doubt or "",
        "steps": found.steps,
        "seconds": round(found.seconds, 1),
    }
    if found.suggestion is None:
        return about | {"factor": "", "accuracy there": "", "holds": True}
    suggested = found.suggestion
    factor = suggested / best
    nearest = min(means, key=lambda rate: abs(math.log(rate / suggested)))
    holds = not found.sure or 1 / NEAR <= factor <= NEAR
    return about | {"factor": factor, "accuracy there": means[nearest], "holds": holds}


def printed(entry: dict[str, Any]) -> str:
    lost = "" if entry["factor"] == "" else f"{100 * (entry['accuracy'] - entry['accuracy there']):.1f}"
    cells = [
        f"{entry['model']} on {entry['data']}",
        entry["optimizer"],
        f"{entry['best of grid']:.3g}",
        f"{entry['accuracy']:.1%}",
        "–" if entry["suggestion"] is None else f"{entry['suggestion']:.3g}",
        "–" if entry["factor"] == "" else f"{entry['factor']:.2f}",
        lost,
        "not sure" if not entry["sure"] else "yes" if entry["holds"] else "**no**",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the learning-rate finder with the best rate of full grids.")
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of sweeps over optimizer.lr")
    parser.add_argument("--into", type=Path, required=True, help="where the CSV goes")
    parser.add_argument("--name", default="results", help="of the CSV (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, help="a folder for a picture of each search")
    arguments = parser.parse_args()
    print("| network | optimizer | best of grid | its accuracy | suggested | factor | points lost | within 3 |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for sweep in arguments.sweeps:
        rows.append(row(sweep, arguments.pictures))
        print(printed(rows[-1]), flush=True)
    with (arguments.into / f"{arguments.name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
