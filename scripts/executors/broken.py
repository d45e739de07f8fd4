"""Real points by each executor, while things break."""

import argparse
import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path

from executors.clusters import available, ray, slurm
from executors.running import SMALL, TRAIN, Row, begin, finished, scratch
from executors.trouble import counted, done, kill_a_slurm_node, kill_a_worker, preempt


def faults(options: argparse.Namespace) -> list[Row]:
    rows = []
    for executor in available(options.executors.split(",")):
        with scratch() as folder, scratch() as cluster:
            rows.append(_row(executor, options.points, folder, cluster))
            print(rows[-1], flush=True)
    return rows


def _row(executor: str, points: int, folder: Path, place: Path) -> Row:
    arguments = [*SMALL, f"seed=range({points})", "trainer.max_epochs=10", "trainer.checkpoint_every=20 steps"]
    variables: dict[str, str] = {}
    trouble: list[tuple[str, Callable[[], None]]] = [("worker killed", functools.partial(kill_a_worker, folder))]
    with contextlib.ExitStack() as stack:
        if executor == "slurm":
            variables = stack.enter_context(slurm(place, 2, 2))
            arguments += ["hydra.launcher.executor=slurm", "hydra.launcher.workers=4"]
            arguments += [f"hydra.launcher.slurm.points_per_job={-(-points // 8)}"]
            trouble += [
                ("preemption", functools.partial(preempt, variables)),
                ("node killed", functools.partial(kill_a_slurm_node, variables)),
            ]
        elif executor == "ray":
            cluster = stack.enter_context(ray(place, 1, 1))
            variables = cluster.variables
            arguments += ["hydra.launcher.executor=ray", cluster.address]
            trouble += [("node killed", functools.partial(cluster.kill, 1))]
        else:
            arguments += ["hydra.launcher.workers=2"]
        began = time.perf_counter()
        process = begin(folder, TRAIN, arguments, **variables)
        stack.callback(process.kill)
        made = []
        for number, (name, make) in enumerate(trouble, start=1):
            wanted = points * number // (len(trouble) + 2)
            while done(folder) < wanted and process.poll() is None:
                time.sleep(0.2)
            make()
            made.append(name)
        sweep = finished(folder, process, began)
        return {"executor": executor, "made": made, "command_seconds": sweep.seconds, **counted(sweep, folder)}
