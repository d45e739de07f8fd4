"""How cost grows: a step with the batch and with the network's width, an epoch with the data, time and memory with the steps.

Linear is what it should be: twice the images or steps, twice the time; and no more memory for more steps.
"""

from pathlib import Path
from typing import Any

from benchmarks.turns import Turn, seated, spread, take_turns, turn
from benchmarks.workloads import Workload

BASE = (
    "data=random_images",
    "data.shape=[1,28,28]",
    "model=mlp",
    "optimizer=adam",
    "trainer.threads=1",
    "trainer.speed=safe",
)
BATCHES, WIDTHS, SIZES = (64, 128, 256, 512, 1024), (64, 128, 256, 512, 1024), (5_000, 10_000, 20_000, 40_000)


def variants(quick: bool) -> dict[str, dict[int, Workload]]:
    """What is varied → its values → the training."""

    def of(*overrides: str) -> Workload:
        return Workload("mlp on noise", (*BASE, *overrides))

    few = 2 if quick else None
    return {
        "batch": {
            n: of("data.examples=20000", f"data.batch_size={n}", "model.hidden=[512,512]") for n in BATCHES[:few]
        },
        "width": {n: of("data.examples=20000", "data.batch_size=256", f"model.hidden=[{n},{n}]") for n in WIDTHS[:few]},
        "images": {n: of(f"data.examples={n}", "data.batch_size=100") for n in SIZES[:few]},
    }


def measure(turns: int, seconds: float, quick: bool = False) -> dict[str, Any]:
    """Microseconds and memory for each value, and a long training looked at again and again."""
    found: dict[str, Any] = {}
    for name, choices in variants(quick).items():
        seats = {str(value): ("gradlab", workload) for value, workload in choices.items()}
        taken, broken = take_turns(seats, Path("data"), turns, seconds)
        if broken:
            raise RuntimeError("\n".join(broken.values()))
        found[name] = {value: _of(each, name, int(value)) for value, each in taken.items()}
    found["steps"] = long_training(12 * turns if not quick else 4, seconds)
    return found


def _of(taken: list[Turn], name: str, value: int) -> dict[str, Any]:
    steps = -(-(value - value // 10) // 100) if name == "images" else 1  # a tenth is for validation
    return {
        "microseconds": spread([1e6 * steps * each.seconds / each.steps for each in taken]),
        "memory_mib": round(max(each.memory for each in taken) / 2**20),
    }


def long_training(looks: int, seconds: float) -> list[dict[str, float]]:
    """Steps, seconds and memory of one training, from its beginning to each look."""
    workload = variants(True)["images"][SIZES[0]]
    steps, spent, seen = 0, 0.0, []
    with seated({"gradlab": ("gradlab", workload)}, Path("data")) as lines:
        turn(lines["gradlab"], seconds)
        for _ in range(looks):
            done = turn(lines["gradlab"], seconds)
            steps, spent = steps + done.steps, spent + done.seconds
            seen.append({"steps": steps, "seconds": spent, "memory_mib": done.memory / 2**20})
    return seen


def draw(result: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    for axes, name, label, unit in (
        (first, "batch", "images in a batch", "step"),
        (second, "width", "units in each of two hidden layers", "step"),
        (third, "images", "images", "epoch"),
    ):
        values = [int(value) for value in result[name]]
        times = [each["microseconds"] for each in result[name].values()]
        axes.fill_between(values, [t["min"] / 1e3 for t in times], [t["max"] / 1e3 for t in times], alpha=0.25)
        axes.plot(values, [t["median"] / 1e3 for t in times], "o-")
        axes.set(xlabel=label, ylabel=f"ms for each {unit}", ylim=(0, None))
    looks = result["steps"]
    fourth.plot([each["steps"] for each in looks], [each["seconds"] for each in looks])
    fourth.set(xlabel="optimizer steps", ylabel="seconds", ylim=(0, None))
    memory = fourth.twinx()
    memory.plot([each["steps"] for each in looks], [each["memory_mib"] for each in looks], "C1")
    memory.set(ylabel="most memory so far, MiB", ylim=(0, None))
    figure.savefig(file, dpi=110)


def rows(result: dict[str, Any]) -> list[list[str]]:
    lines = []
    for name in ("batch", "width", "images"):
        for value, each in result[name].items():
            times = each["microseconds"]
            told = f"{times['median']:,.0f} ({times['min']:,.0f}–{times['max']:,.0f})"
            lines.append([name, f"{int(value):,}", told, f"{each['memory_mib']:,}"])
    looks = result["steps"]
    for each in (looks[0], looks[-1]):
        pace = 1e6 * each["seconds"] / each["steps"]
        lines.append(["steps", f"{each['steps']:,}", f"{pace:,.0f} each", f"{each['memory_mib']:,.0f}"])
    return lines
