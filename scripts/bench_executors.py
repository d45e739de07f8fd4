"""What it costs to run points somewhere: overhead by executor, wall time against workers, and ten thousand points of nothing.

    .venv/bin/python scripts/bench_executors.py overhead [--executors local,slurm,ray] [--points 16]
    .venv/bin/python scripts/bench_executors.py workers [--most 64] [--seconds 10] [--each 3]
    .venv/bin/python scripts/bench_executors.py points [--counts 1000,2000,5000,10000] [--tracked]
    .venv/bin/python scripts/bench_executors.py faults [--executors local,slurm,ray] [--points 200]

* ``overhead``: real trainings of small networks, two workers: seconds until the first point trains, and between two points of one
  worker, beside what the trainings took. Where SLURM and Ray are missing, the executor is left out.
* ``workers``: points that sleep, ``--each`` for every worker, in workers that keep records like others and train nothing, so that
  64 of them fit a small machine. ``of linear`` is (points × seconds) over (workers × wall time); whole command, and from the
  first point to the last. ``beside the points`` are the seconds of the whole command that no such point fills.
* ``points``: points of nothing in such workers: time, the peak memory of the sweep's process, the size of the folder (and store)
  and the time that ``gradlab compare`` takes.
* ``faults``: real points, while a worker is killed, a node is killed (SLURM, Ray) and a job is preempted (SLURM): is every point
  done exactly once, and does MLflow have every row of every journal?

Results are added to experiments/executors/results.json, in place of those of the same executor, number of workers or points.
"""

import argparse
import json

from rich.console import Console
from rich.table import Table

from executors.broken import faults
from executors.overhead import overhead
from executors.points import points
from executors.report import report
from executors.running import ROOT
from executors.workers import workers
from gradlab import environment

RESULTS = ROOT / "experiments" / "executors" / "results.json"
PARTS = {
    "overhead": (overhead, ["executor"]),
    "workers": (workers, ["workers", "points"]),
    "points": (points, ["points"]),
    "faults": (faults, ["executor"]),
}
"""What is measured, and which entries tell its rows apart."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--executors", default="local,slurm,ray")
    parser.add_argument("--points", type=int, default=None)
    parser.add_argument("--least", type=int, default=1)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--counts", default="1000,2000,5000,10000")
    parser.add_argument("--tracked", action="store_true")
    options = parser.parse_args()
    options.points = options.points or {"overhead": 16, "faults": 200}.get(options.what)
    measure, keys = PARTS[options.what]
    rows = measure(options)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    name = options.what + ("_tracked" if options.tracked else "")
    again = [[row[key] for key in keys] for row in rows]
    kept = [row for row in known.get(name, {}).get("rows", []) if [row[key] for key in keys] not in again]
    rows = sorted([*kept, *rows], key=lambda row: [row[key] for key in keys])
    known[name] = {"machine": environment.processor(), "rows": rows}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    RESULTS.with_name("README.md").write_text(report(known))
    table = Table(*rows[-1].keys())
    for row in rows:
        table.add_row(*(f"{value:,.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
