"""What a point costs beside its training, by executor."""

import argparse
import itertools
import statistics
import time

from executors.clusters import available, place
from executors.running import SMALL, TRAIN, Row, Sweep, run_sweep, scratch


def overhead(options: argparse.Namespace) -> list[Row]:
    rows = []
    for executor in available(options.executors.split(",")):
        with scratch() as cluster, place(executor, cluster) as (overrides, variables):
            for jobs in [1, options.points // 2] if executor == "slurm" else [1]:
                more = [f"hydra.launcher.slurm.points_per_job={jobs}"] if executor == "slurm" else []
                name = executor + (f", {jobs} to a job" if executor == "slurm" else "")
                arguments = [*SMALL, "tracking=none", f"seed=range({options.points})", *overrides, *more]
                with scratch() as folder:
                    began = time.time()
                    sweep = run_sweep(folder, TRAIN, arguments, **variables)
                    rows.append({"executor": name, **_measured(sweep, began, options.points)})
                print(rows[-1], flush=True)
    return rows


def _measured(sweep: Sweep, began: float, points: int) -> Row:
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for worker, start, end in sweep.times():
        by_worker.setdefault(worker, []).append((start, end))
    gaps = [later[0] - earlier[1] for turns in by_worker.values() for earlier, later in itertools.pairwise(turns)]
    return {
        "points": points,
        "command_seconds": sweep.seconds,
        "until_first_point": sweep.times()[0][1] - began,
        "training_seconds_each": sweep.training() / points,
        "record_seconds_each": sum(end - start for _, start, end in sweep.times()) / points,
        "between_two_points_of_a_worker": statistics.median(gaps) if gaps else None,
        "overhead_each": (2 * sweep.seconds - sweep.training()) / points,
    }
