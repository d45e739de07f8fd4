"""Points of nothing by the thousand: does everything grow with their number, and no faster?"""

import argparse
import json
import subprocess
import sys
import time

from executors.running import SMALL, Row, environment_of, run_sweep, scratch
from executors.stand_ins import SLEEP, STAND_INS


def points(options: argparse.Namespace) -> list[Row]:
    rows = []
    for count in (int(word) for word in options.counts.split(",")):
        with scratch() as folder:
            tracking = [] if options.tracked else ["tracking=none"]
            arguments = [*SMALL, *tracking, f"seed=range({count})", "hydra.launcher.workers=2"]
            sweep = run_sweep(folder, STAND_INS, arguments, **{SLEEP: "0"})
            told = json.loads(sweep.out.strip().splitlines()[-1])
            assert len(sweep.runs) == count
            began = time.perf_counter()
            compared = subprocess.run(
                [sys.executable, "-m", "gradlab", "compare", str(sweep.folder.path)],
                cwd=folder, env=environment_of(), capture_output=True, text=True,
            )  # fmt: skip
            compare_seconds = time.perf_counter() - began
            if compared.returncode:
                raise RuntimeError(compared.stdout + compared.stderr)
            store = folder / "mlflow.db"
            files = [path.stat().st_size for path in sweep.folder.path.rglob("*") if path.is_file()]
            rows.append(
                {
                    "points": count,
                    "tracked": options.tracked,
                    "command_seconds": sweep.seconds,
                    "compare_seconds": compare_seconds,
                    "peak_memory_mb": told["peak_memory"] / 1e6,
                    "folder_mb": sum(files) / 1e6,
                    "store_mb": store.stat().st_size / 1e6 if store.exists() else None,
                }
            )
            print(rows[-1], flush=True)
    return rows
