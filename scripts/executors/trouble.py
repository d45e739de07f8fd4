"""What breaks while a sweep runs: a worker, a node, a job that gives way. And what is then counted."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from executors.running import Row, Sweep, environment_of
from gradlab.tracking.journal import metric_rows, records


def done(folder: Path) -> int:
    """Points that have a result."""
    return len(list(folder.glob("outputs/*_sweep_*/runs/*/result.json")))


def kill_a_worker(folder: Path) -> None:
    """SIGKILL to a process that trains."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in folder.glob("outputs/*_sweep_*/runs/*/journal.jsonl"):
            if (journal.parent / "result.json").exists():
                continue
            with contextlib.suppress(OSError, StopIteration, KeyError, ValueError):
                first, _ = next(records(journal))
                os.kill(int(first["process"]["pid"]), signal.SIGKILL)
                return
        time.sleep(0.02)
    raise RuntimeError("no point trains")


def preempt(variables: dict[str, str], nodes: int = 1) -> None:
    """A job of more urgency takes ``nodes`` of a SLURM cluster for a moment."""
    subprocess.run(
        [
            "sbatch", "--partition=urgent", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", "--chdir=/",
            "--wrap", "sleep 1",
        ],
        env=environment_of(**variables), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def kill_a_slurm_node(variables: dict[str, str]) -> None:
    """SIGKILL to the second node's daemon and to all that it has started."""
    cluster = Path(variables["SLURM_CONF"]).parent
    daemon = int((cluster / "slurmd.n2.pid").read_text())
    steps = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_step_of(path, str(cluster), "n2")]
    for pid in [daemon, *steps]:
        for child in descendants(pid):
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)


def _is_step_of(process: Path, folder: str, node: str) -> bool:
    with contextlib.suppress(OSError):
        variables = (process / "environ").read_bytes()
        return f"SLURMD_NODENAME={node}\0".encode() in variables and folder.encode() in variables
    return False


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def counted(sweep: Sweep, folder: Path) -> Row:
    """Points done once, lost or done more than once; and rows that journals or the store lack."""
    from faults.comparison import differences  # imports much

    content = json.loads(sweep.folder.record.read_text())
    times: Counter[str] = Counter({point["id"]: 0 for point in content["points"]})
    doubled = 0
    steps: list[int] = []
    for run in sweep.runs:
        first, _ = next(records(run.journal))
        if json.loads(run.result.read_text())["status"] != "finished":
            continue
        times[first["point"]] += 1
        rows = Counter(step for step, values in metric_rows(run.journal) if "train/loss" in values)
        doubled += sum(count - 1 for count in rows.values())
        steps.append(len(rows))
    lacking = sum(max(steps) - count for count in steps)  # all points are of one length
    different, lost = 0, 0
    for run in sweep.runs:
        said, missing = differences(run.path, f"sqlite:///{folder}/mlflow.db")
        different, lost = different + bool(said), lost + missing
    resumed = sum([record["kind"] for record, _ in records(run.journal)].count("resumed") for run in sweep.runs)
    return {
        "points": len(times),
        "once": sum(count == 1 for count in times.values()),
        "lost": sum(count == 0 for count in times.values()),
        "more_than_once": sum(count > 1 for count in times.values()),
        "runs": len(sweep.runs),
        "gone_on_with": resumed,
        "rows_doubled": doubled,
        "rows_lost": lost + lacking,
        "runs_that_differ_in_mlflow": different,
    }
