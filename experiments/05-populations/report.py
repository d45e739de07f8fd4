"""Write this folder's README from what was measured: ``equality.csv`` and ``../speed/population_cpu.json``.

python experiments/05-populations/report.py
"""

import csv
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPEED = HERE.parent / "speed" / "population_cpu.json"

HEAD = """# Are members of a population the runs that they would be alone, and how much faster?

<!-- Written by report.py from equality.csv and ../speed/population_cpu.json. -->

```bash
python experiments/05-populations/compare.py --data ../shared/data   # may be ended, and goes on
python scripts/bench.py --population --data ../shared/data           # with the machine to itself
python experiments/05-populations/report.py                          # this page
```
"""


def main() -> None:
    parts = [HEAD]
    if (HERE / "equality.csv").exists():
        parts.append(equality(list(csv.DictReader((HERE / "equality.csv").open()))))
    if (HERE / "equality_cuda.csv").exists():
        parts.append(on_a_gpu(list(csv.DictReader((HERE / "equality_cuda.csv").open()))))
    parts.append(speed(json.loads(SPEED.read_text())["results"]))
    (HERE / "README.md").write_text("\n".join(parts))


def equality(rows: list[dict[str, str]]) -> str:
    """The largest differences of each network and precision, over the optimizers."""
    lines = [
        "## The same runs",
        "",
        "Three members with learning rates and seeds of their own against the same three runs alone, over 200 steps with "
        "augmentation, dropout where the network has it, a warm-up and a cosine schedule, a bound of the gradients' norm, an average of "
        "the weights (but for the schedule-free optimizers, which have their own) and a short last batch in every epoch. The largest "
        "difference over the members: of a tensor (weights, averages, statistics of BatchNorm) relative to its largest number, of a "
        "loss relative to itself. The bound of the norm is why they are not the same bits: it sums in another order. "
        "The bias of attention's keys is left out: softmax takes no notice of it, so its gradient is nothing but rounding, which "
        "Adagrad and its like make into steps. With Adagrad it alone differed, by up to 2e-7 of itself in float64 and 0.7 in float32, "
        "and no other tensor by more than 1e-15 and 5e-7. In float32 rounding stays rounding only where training is stable: at ten "
        "times these rates, with batches of 16, RMSprop on LeNet ended elsewhere altogether.",
        "",
        *differences(rows),
    ]
    ended = sorted({row["statuses"] for row in rows})
    return "\n".join(
        [*lines, "", f"All {len(rows)} comparisons are in `equality.csv`; the runs ended as: {', '.join(ended)}.", ""]
    )


def differences(rows: list[dict[str, str]]) -> list[str]:
    """A table: for each network and precision the largest over the optimizers."""
    lines = [
        "| network | precision | optimizers | tensors, at most | with | losses, at most | with |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["model"], row["precision"]) == (model, precision)]
        tensors = max(own, key=lambda row: float(row["tensors"]))
        losses = max(own, key=lambda row: float(row["losses"]))
        lines.append(
            f"| {model} | {precision} | {len(own)} | {tensors['tensors']} | {tensors['optimizer']} | {losses['losses']} "
            f"| {losses['optimizer']} |"
        )
    return lines


def on_a_gpu(rows: list[dict[str, str]]) -> str:
    """The same of a GPU."""
    sgd = next(row for row in rows if (row["model"], row["precision"], row["optimizer"]) == ("mlp", "fp32", "sgd"))
    return "\n".join(
        [
            "### On an NVIDIA H200",
            "",
            "The same there (`compare.py --device cuda`), as far as eleven minutes went; the rows of the ViT in float64 and of ResNet-9 are of "
            "captured populations, the others of eager ones. In fp32 matrix products and convolutions take TF32's factors of ten bits, and a "
            "population's kernels round them otherwise than a single run's, which 200 steps make larger, most with optimizers that divide by "
            f"small numbers. (A bias begins at zero, so with SGD it is as exact as its gradients: the MLP's differ by {sgd['tensors']}, which is "
            "TF32's rounding.) That TF32 is the reason was not checked by turning it off.",
            "",
            *differences(rows),
            "",
            f"All {len(rows)} comparisons are in `equality_cuda.csv`.",
            "",
        ]
    )


def speed(results: list[dict[str, Any]]) -> str:
    lines = ["## The time", ""]
    for result in results:
        if result["workload"] == "command":
            sweep, single = (result["seconds"][kind]["median"] for kind in ("sweep", "single"))
            lines += [
                f"**The whole command**: {result['runs']} learning rates on the digits as one `python train.py -m …` take "
                f"{sweep:.1f} s, one `python train.py` {single:.1f} s, so as many of those one after the other "
                f"{result['times_as_fast']:.1f} times as long. (Three single ones were run for each; the rest is multiplication.)",
                "",
            ]
        else:
            lines += table(result)
    return "\n".join(lines)


def table(result: dict[str, Any]) -> list[str]:
    ways, floor = result["microseconds"], result["floor_microseconds"]
    plain = ways["plain loop"]["median"]
    told = result.get("picked", {}).items()
    picked = ", ".join(f"{way.removesuffix(' (measured)')} for {length}" for length, way in told) or "not recorded"
    lines = [
        f"**{result['workload']}**, µs of a step for each run, median of {result['turns']} turns "
        f"({result.get('hardware', '')}); for {result['runs']} runs the planner picks: {picked}.",
        "",
        "| way | median | lowest–highest | the plain loop takes … times as long | of the floor | memory of a member |",
        "|---|---|---|---|---|---|",
    ]
    for way, found in ways.items():
        memory = result.get("bytes_of_a_member", {}).get(way)
        lines.append(
            f"| {way} | {found['median']:,.0f} | {found['min']:,.0f}–{found['max']:,.0f} | {plain / found['median']:.2f} "
            f"| {floor / found['median']:.0%} | {'' if memory is None else f'{memory / 2**20:.1f} MiB'} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    main()
