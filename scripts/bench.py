"""What gradlab costs, beside others that do the same work, on this machine.

    .venv/bin/python scripts/bench.py --data ../shared/data                   everything; a quarter of an hour on two cores
    .venv/bin/python scripts/bench.py --only steps mnist+lenet                one part, one workload
    .venv/bin/python scripts/bench.py --quick                                 every part with next to no work, to try them

    start        --help, a mistake, the time to the first optimizer step
    steps        an optimizer step: gradlab, loops by hand, stock Lightning, and the floor: arithmetic over the machine's own rate of
                 matrix products, bytes over its bandwidth, whichever takes longer
    overhead     tracking, checkpoints and the progress bar
    growth       with the batch, the network, the data and the steps, as a figure too
    input        crops and flips of CIFAR's JPEG files beside DataLoader's (needs --archive)
    population   many runs at once (bench_population.py)

The ways take turns after warming up, each in a process of its own; a figure is the median of the turns with the lowest and highest. Read
the ratios: machines are shared. Results go to experiments/speed/ as JSON, one file for each part and device, and a page
of all of them.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import HEADS, rows_of, write
from benchmarks.workloads import SMALL, WORKLOADS
from gradlab import environment

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("start", "steps", "overhead", "growth", "input", "population")


def device_and_hardware() -> tuple[str, str]:
    """``cpu``, or the GPU's name as a part of a file's name; and what the hardware is called."""
    import torch

    if not torch.cuda.is_available():
        return "cpu", environment.processor()
    name = torch.cuda.get_device_name()
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-"), name


class Results:
    """Tables on the terminal, and one file for each part, written whenever there is more to say."""

    def __init__(self, into: Path) -> None:
        self.into = into
        self.device, self.hardware = device_and_hardware()
        self.console = Console(width=150)
        into.mkdir(parents=True, exist_ok=True)

    def show(self, part: str, rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=f"{part}, on {self.hardware}")
        width = max([len(HEADS[part]), *map(len, rows)])
        for head in [*HEADS[part], *[""] * width][:width]:
            table.add_column(head, justify="left" if head in ("", "workload", "way", "with") else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def kept(self, part: str) -> list[Any]:
        """What an earlier call wrote of other workloads, with the same hardware and versions."""
        file = self.into / f"{part}_{self.device}.json"
        record = json.loads(file.read_text()) if file.exists() else {}
        alike = record.get("hardware") == self.hardware and record.get("versions") == environment.versions()
        return list(record["results"]) if alike else []

    def write(self, part: str, results: Any) -> None:
        record = {"hardware": self.hardware, "versions": environment.versions(), "results": results}
        file = self.into / f"{part}_{self.device}.json"
        file.write_text(json.dumps(record, indent=1) + "\n")
        write(self.into)
        print(f"written to {file}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="WHAT", default=[], help="parts and workloads; all others are left out"
    )
    parser.add_argument("--population", action="store_true", help="as --only population")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds MNIST/raw")
    parser.add_argument("--archive", type=Path, help="cifar10-jpeg.tar.xz, for the input path")
    parser.add_argument("--turns", type=int, default=5, help="measured turns of each way (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="a loop in torch.compile too; always so on a GPU")
    parser.add_argument(
        "--quick", action="store_true", help="try every part with next to no work; the figures mean nothing"
    )
    parser.add_argument(
        "--into", type=Path, default=ROOT / "experiments" / "speed", help="(default: experiments/speed)"
    )
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.turns, parsed.seconds = 1, 0.05
    parsed.parts = [word for word in parsed.only if word in PARTS] + ["population"] * parsed.population
    parsed.workloads = [word for word in parsed.only if word not in PARTS]
    known = [workload.name for workload in WORKLOADS]
    if "population" in parsed.parts:
        known += ["command"]
    for word in parsed.workloads:
        if word not in known:
            parser.error(
                f"--only {word}: there is no such part or workload. Parts: {', '.join(PARTS)}. Workloads: {', '.join(known)}."
            )
    return parsed


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(arguments)
    results = Results(parsed.into)
    parts: dict[str, Callable[[argparse.Namespace, Results], None]] = {
        "start": start, "steps": steps, "overhead": overhead, "growth": growth, "input": inputs, "population": population,
    }  # fmt: skip
    left_out = {"population"} | ({"input"} if parsed.archive is None else set())
    default = ["steps"] if parsed.workloads else [part for part in PARTS if part not in left_out]
    for part in parsed.parts or default:
        parts[part](parsed, results)


def start(parsed: argparse.Namespace, results: Results) -> None:
    from benchmarks import start as part

    found = part.measure(parsed.turns, ["--cfg job", "first step, digits"] if parsed.quick else None)
    results.show("start", part.rows(found))
    results.write("start", found)


def steps(parsed: argparse.Namespace, results: Results) -> None:
    from benchmarks import steps as part

    chosen = [workload for workload in WORKLOADS if not parsed.workloads or workload.name in parsed.workloads]
    if parsed.quick:
        chosen = [SMALL]
    found = {each["workload"]: each for each in results.kept("steps")}
    for workload in chosen:
        compiled = parsed.compiled or (results.device != "cpu" and not parsed.quick)
        one = part.measure(workload, parsed.data, parsed.turns, parsed.seconds, compiled)
        found[workload.name] = one
        results.show("steps", part.rows(one))
        results.write("steps", list(found.values()))


def overhead(parsed: argparse.Namespace, results: Results) -> None:
    from benchmarks import overhead as part

    found = part.measure(["data=digits", "model=mlp"], 50 if parsed.quick else 15_000, parsed.turns)
    results.show("overhead", part.rows(found))
    results.write("overhead", found)


def growth(parsed: argparse.Namespace, results: Results) -> None:
    from benchmarks import growth as part

    found = part.measure(parsed.turns, parsed.seconds / 2, parsed.quick)
    results.show("growth", part.rows(found))
    results.write("growth", found)
    part.draw(found, results.into / f"growth_{results.device}.png")


def inputs(parsed: argparse.Namespace, results: Results) -> None:
    from benchmarks import inputs as part

    if parsed.archive is None:
        raise SystemExit("bench.py: the input path needs --archive, such as ../shared/data/cifar10-jpeg.tar.xz")
    found = part.measure(parsed.archive, parsed.turns, 2_000 if parsed.quick else 40_000)
    results.show("input", rows_of("input", found))
    results.write("input", found)


def population(parsed: argparse.Namespace, results: Results) -> None:
    import bench_population

    for workload in parsed.workloads or [None]:
        bench_population.main(parsed.data, parsed.turns, workload, parsed.into, results.device)


if __name__ == "__main__":
    main()
