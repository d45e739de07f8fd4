"""Collect finished runs into results.csv and print a table with means and 95 % confidence intervals.

    python experiments/summarize.py outputs/*mnist* --into experiments/01-mnist-lenet

One row of the CSV for each run, from its ``result.json``. The interval is Student's t over the seeds, for the mean of the
test accuracy; it needs two runs at least.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

from scipy import stats

COLUMNS = (
    "name",
    "seed",
    "status",
    "steps",
    "test/accuracy",
    "best/val_accuracy",
    "best/step",
    "training seconds",
    "device",
)


def row(folder: Path) -> dict[str, object]:
    result = json.loads((folder / "result.json").read_text())
    known = {
        **result,
        **result.get("metrics", {}),
        "training seconds": round(result["seconds"]["training_and_test"], 1),
    }
    return {column: known.get(column, "") for column in COLUMNS}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % confidence interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect runs into results.csv and print their mean.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--into", type=Path, required=True, help="the experiment's folder")
    arguments = parser.parse_args()
    rows = sorted((row(run) for run in arguments.runs), key=lambda entry: int(str(entry["seed"])))
    with (arguments.into / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print("| seed | test accuracy | best validation accuracy | at step | seconds |\n|---|---|---|---|---|")
    for entry in rows:
        test, val = float(str(entry["test/accuracy"])), float(str(entry["best/val_accuracy"]))
        print(f"| {entry['seed']} | {test:.2%} | {val:.2%} | {entry['best/step']} | {entry['training seconds']} |")
    mean, half = interval([float(str(entry["test/accuracy"])) for entry in rows])
    print(
        f"\nTest accuracy {mean:.2%} ± {half:.2%} (mean and 95 % confidence interval, n = {len(rows)}), on {rows[0]['device']}."
    )


if __name__ == "__main__":
    main()
