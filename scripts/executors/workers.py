"""Wall time against workers, with points that sleep."""

import argparse

from executors.running import SMALL, Row, run_sweep, scratch
from executors.stand_ins import SLEEP, STAND_INS


def workers(options: argparse.Namespace) -> list[Row]:
    rows = []
    count = 1
    while count <= options.most:
        if count >= options.least:
            rows.append(_row(count, options.each * count, options.seconds))
            print(rows[-1], flush=True)
        count *= 2
    return rows


def _row(count: int, points: int, seconds: float) -> Row:
    with scratch() as folder:
        arguments = [*SMALL, "tracking=none", f"seed=range({points})", f"hydra.launcher.workers={count}"]
        sweep = run_sweep(folder, STAND_INS, arguments, **{SLEEP: str(seconds)})
        assert len(sweep.runs) == points
        ends = [end for _, _, end in sweep.times()]
        # A record of nothing is written at a point's end, so the first point began so much before the first end.
        training = max(ends) - min(ends) + seconds
        linear = points * seconds / count
        return {
            "workers": count,
            "points": points,
            "command_seconds": sweep.seconds,
            "beside_the_points": sweep.seconds - linear,
            "of_linear_whole_command": linear / sweep.seconds,
            "of_linear_first_to_last_point": linear / training,
        }
