"""What it costs to run points somewhere: overhead by executor, wall time against workers, and ten thousand points of nothing.

    .venv/bin/python scripts/bench_executors.py overhead [--executors local,slurm,ray] [--points 16]
    .venv/bin/python scripts/bench_executors.py workers [--most 64] [--seconds 10]
    .venv/bin/python scripts/bench_executors.py points [--counts 1000,2000,5000,10000] [--tracked]
    .venv/bin/python scripts/bench_executors.py faults [--executors local,slurm,ray] [--points 200]

* ``overhead``: real trainings of small networks, two workers: seconds until the first point trains, and between two points of one
  worker, beside what the trainings took. Where SLURM and Ray are missing, the executor is left out.
* ``workers``: points that sleep, in workers that keep records like others and train nothing, so that 64 of them fit a small
  machine. ``of linear`` is (points × seconds) over (workers × wall time); whole command, and from the first point to the last.
* ``points``: points of nothing in such workers: time, the peak memory of the sweep's process, the size of the folder (and store)
  and the time that ``gradlab compare`` takes.
* ``faults``: real points, while a worker is killed, a node is killed (SLURM, Ray) and a job is preempted (SLURM): is every point
  done exactly once, and does MLflow have every row of every journal?

Results are added to experiments/executors/results.json.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gradlab import environment
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.journal import Journal, metric_rows, records

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "executors" / "results.json"
SLEEP = "GRADLAB_BENCH_SLEEP"
SMALL = ["model=logistic", "optimizer=sgd", "hydra.launcher.population=off", "plots=false"]
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------- a worker that trains nothing


def stand_in() -> None:
    """Speaks like ``gradlab.sweeps.worker``; a point is its record and a sleep."""
    json.loads(sys.stdin.readline())
    seconds = float(os.environ[SLEEP])
    tell({"event": "ready"})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] != "run":
            continue
        tell({"event": "begun", "points": [point["point"] for point in command["points"]]})
        for point in command["points"]:
            time.sleep(seconds)
            accuracy = 0.5 + int(point["point"][:8], 16) / 2**33
            metrics = {"best/val_accuracy": accuracy, "test/accuracy": accuracy, "best/step": 1}
            record_of_nothing(point, command["parent"], accuracy, metrics)
            done = {"status": "finished", "reason": None, "metrics": metrics, "seconds": seconds}
            tell({"event": "done", "point": point["point"], **done})


def record_of_nothing(point: Row, parent: str, accuracy: float, metrics: dict[str, float]) -> None:
    """The files that a run leaves, as far as sweeps and comparisons read them."""
    import yaml

    folder = RunFolder(Path(point["folder"]))
    folder.config.write_text(yaml.safe_dump(point["config"]))
    journal = Journal(folder.journal)
    params = {f"optimizer.{key}": value for key, value in point["config"]["optimizer"].items()}
    identity = f"{folder.path.name}.{secrets.token_hex(4)}"
    journal.write(
        "run", id=identity, name=point["name"], experiment="gradlab", params=params, tags={"gradlab.status": "running"},
        parent=parent, point=point["point"],
    )  # fmt: skip
    journal.metrics(1, {"train/loss": 1.0, "lr": 0.1})
    journal.metrics(1, {"val/loss": 1.0, "val/accuracy": accuracy})
    result = {
        "status": "finished",
        "name": point["name"],
        "metrics": metrics,
        "point": point["point"],
        "diverged": None,
    }
    folder.write_result(
        {**result, "seed": point["config"]["seed"], "steps": 1, "total_steps": 1, "seconds": {"total": 0.0}}
    )
    journal.write("end", status="FINISHED")
    journal.close()


def tell(event: Row) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def sweep_with_stand_ins() -> None:
    """``train.py`` in this process, with workers that train nothing; its last line is its peak memory."""
    from gradlab.entry import main
    from gradlab.sweeps.executors.process import WorkerProcess

    WorkerProcess.program = (__file__, "stand-in")
    sys.argv = ["train.py", *sys.argv[2:]]
    status = main()
    print(json.dumps({"status": status, "peak_memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


# ------------------------------------------------------------------------------------------------- running and reading sweeps


@dataclass(frozen=True)
class Sweep:
    """One that has ended: its folder, and the seconds of the whole command."""

    folder: SweepFolder
    seconds: float
    out: str

    @property
    def runs(self) -> list[RunFolder]:
        return self.folder.run_folders()

    def training(self) -> float:
        """Seconds that trainings and tests took."""
        return sum(float(json.loads(run.result.read_text())["seconds"]["training_and_test"]) for run in self.runs)

    def times(self) -> list[tuple[str, float, float]]:
        """Of each run: the process that it ran in, and when its record begins and ends, in seconds since 1970."""
        found = []
        for run in self.runs:
            lines = [record for record, _ in records(run.journal)]
            process = lines[0].get("process", {})
            found.append((f"{process.get('pid')}", lines[0]["time"] / 1000, lines[-1]["time"] / 1000))
        return sorted(found, key=lambda one: one[1])


def environment_of(**changes: str) -> dict[str, str]:
    hidden = {"MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR"}
    return {**{key: value for key, value in os.environ.items() if key not in hidden}, "NO_COLOR": "1", **changes}


def begin(folder: Path, program: list[str], arguments: list[str], **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *program, "-m", *arguments], cwd=folder, env=environment_of(**variables),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(folder: Path, process: "subprocess.Popen[str]", began: float) -> Sweep:
    out, _ = process.communicate(timeout=3000)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(out)
    (path,) = (folder / "outputs").glob("*_sweep_*")
    return Sweep(SweepFolder(path), seconds, out)


def run_sweep(folder: Path, program: list[str], arguments: list[str], **variables: str) -> Sweep:
    began = time.perf_counter()
    return finished(folder, begin(folder, program, arguments, **variables), began)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gradlab-executors-") as name:
        yield Path(name)


TRAIN = [str(ROOT / "train.py")]
STAND_INS = [__file__, "sweep-with-stand-ins"]


# ------------------------------------------------------------------------------------------------- clusters of this machine


@contextlib.contextmanager
def slurm(nodes: int, cores: int) -> Iterator[dict[str, str]]:
    """The variables of a SLURM of this machine."""
    with scratch() as folder:
        script = ["bash", str(ROOT / "scripts/slurm_cluster.sh")]
        subprocess.run([*script, "start", str(folder), str(nodes), str(cores)], check=True, stdout=subprocess.DEVNULL)
        try:
            yield {"SLURM_CONF": str(folder / "slurm.conf")}
        finally:
            subprocess.run([*script, "stop", str(folder)], check=True)


class RayCluster:
    """Nodes of Ray on this machine, each a process group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_worker_niceness": "0"}
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add(self, cpus: int) -> None:
        where = [f"--address=127.0.0.1:{self.port}"]
        if not self.nodes:
            where = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        ray = str(Path(sys.executable).parent / "ray")
        with (self.folder / f"node{len(self.nodes)}.log").open("w") as log:
            self.nodes.append(
                subprocess.Popen(
                    [ray, "start", *where, f"--num-cpus={cpus}", "--disable-usage-stats", "--block"],
                    env=environment_of(**self.variables), stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
        time.sleep(15)

    def kill(self, node: int) -> None:
        os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait()


@contextlib.contextmanager
def ray(*cpus: int) -> Iterator[RayCluster]:
    with scratch() as folder:
        cluster = RayCluster(folder)
        try:
            for count in cpus:
                cluster.add(count)
            yield cluster
        finally:
            for node in cluster.nodes:
                if node.poll() is None:
                    os.killpg(node.pid, signal.SIGKILL)
                    node.wait()
            time.sleep(1)


def available(names: list[str]) -> list[str]:
    """Those executors that can be had here."""
    from importlib.util import find_spec

    path = f"{os.environ['PATH']}:/usr/sbin"
    there = {
        "local": True,
        "slurm": find_spec("submitit") is not None and shutil.which("slurmctld", path=path) is not None,
        "ray": find_spec("ray") is not None,
    }
    return [name for name in names if there[name]]


@contextlib.contextmanager
def place(executor: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Overrides and variables for a sweep with two workers by ``executor``."""
    if executor == "local":
        yield ["hydra.launcher.workers=2"], {}
    elif executor == "slurm":
        with slurm(1, 2) as variables:
            yield ["hydra.launcher.executor=slurm", "hydra.launcher.workers=2"], variables
    else:
        with ray(2) as cluster:
            address = f"hydra.launcher.ray.address=127.0.0.1:{cluster.port}"
            yield ["hydra.launcher.executor=ray", "hydra.launcher.workers=2", address], cluster.variables


# ------------------------------------------------------------------------------------------------- what is measured


def overhead(options: argparse.Namespace) -> list[Row]:
    rows = []
    for executor in available(options.executors.split(",")):
        with place(executor) as (overrides, variables):
            for jobs in [1, options.points // 2] if executor == "slurm" else [1]:
                more = [f"hydra.launcher.slurm.points_per_job={jobs}"] if executor == "slurm" else []
                with scratch() as folder:
                    began = time.time()
                    sweep = run_sweep(
                        folder,
                        TRAIN,
                        [*SMALL, "tracking=none", f"seed=range({options.points})", *overrides, *more],
                        **variables,
                    )
                    by_worker: dict[str, list[tuple[float, float]]] = {}
                    for worker, start, end in sweep.times():
                        by_worker.setdefault(worker, []).append((start, end))
                    gaps = [
                        later[0] - earlier[1]
                        for turns in by_worker.values()
                        for earlier, later in itertools.pairwise(turns)
                    ]
                    rows.append(
                        {
                            "executor": executor + (f", {jobs} to a job" if executor == "slurm" else ""),
                            "points": options.points,
                            "command_seconds": sweep.seconds,
                            "until_first_point": sweep.times()[0][1] - began,
                            "training_seconds_each": sweep.training() / options.points,
                            "record_seconds_each": sum(end - start for _, start, end in sweep.times()) / options.points,
                            "between_two_points_of_a_worker": statistics.median(gaps) if gaps else None,
                            "overhead_each": (2 * sweep.seconds - sweep.training()) / options.points,
                        }
                    )
    return rows


def workers(options: argparse.Namespace) -> list[Row]:
    rows = []
    count = 1
    while count <= options.most:
        points = 3 * count
        with scratch() as folder:
            arguments = [*SMALL, "tracking=none", f"seed=range({points})", f"hydra.launcher.workers={count}"]
            sweep = run_sweep(folder, STAND_INS, arguments, **{SLEEP: str(options.seconds)})
            assert len(sweep.runs) == points
            ends = [end for _, _, end in sweep.times()]
            # A record of nothing is written at a point's end, so the first point began so much before the first end.
            training = max(ends) - min(ends) + options.seconds
            linear = points * options.seconds / count
            rows.append(
                {
                    "workers": count,
                    "points": points,
                    "command_seconds": sweep.seconds,
                    "of_linear_whole_command": linear / sweep.seconds,
                    "of_linear_first_to_last_point": linear / training,
                }
            )
        count *= 2
    return rows


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
            if compared.returncode:
                raise RuntimeError(compared.stdout + compared.stderr)
            store = folder / "mlflow.db"
            rows.append(
                {
                    "points": count,
                    "tracked": options.tracked,
                    "command_seconds": sweep.seconds,
                    "compare_seconds": time.perf_counter() - began,
                    "peak_memory_mb": told["peak_memory"] / 1e6,
                    "folder_mb": sum(path.stat().st_size for path in sweep.folder.path.rglob("*") if path.is_file())
                    / 1e6,
                    "store_mb": store.stat().st_size / 1e6 if store.exists() else None,
                }
            )
            print(rows[-1], flush=True)
    return rows


def faults(options: argparse.Namespace) -> list[Row]:
    sys.path.insert(0, str(ROOT / "scripts"))
    rows = []
    for executor in available(options.executors.split(",")):
        with scratch() as folder, contextlib.ExitStack() as stack:
            arguments = [
                *SMALL,
                f"seed=range({options.points})",
                "trainer.max_epochs=10",
                "trainer.checkpoint_every=20 steps",
            ]
            trouble: list[tuple[str, Callable[[Path], None]]] = [("worker killed", kill_a_worker)]
            if executor == "slurm":
                variables = stack.enter_context(slurm(2, 2))
                arguments += ["hydra.launcher.executor=slurm", "hydra.launcher.workers=4"]
                arguments += [f"hydra.launcher.slurm.points_per_job={-(-options.points // 8)}"]
                trouble += [
                    ("preemption", functools.partial(preempt, variables)),
                    ("node killed", functools.partial(kill_a_slurm_node, variables)),
                ]
            elif executor == "ray":
                cluster = stack.enter_context(ray(1, 1))
                variables = cluster.variables
                arguments += ["hydra.launcher.executor=ray", f"hydra.launcher.ray.address=127.0.0.1:{cluster.port}"]
                trouble += [("node killed", functools.partial(kill_a_ray_node, cluster))]
            else:
                variables = {}
                arguments += ["hydra.launcher.workers=2"]
            began = time.perf_counter()
            process = begin(folder, TRAIN, arguments, **variables)
            made = []
            for number, (name, make) in enumerate(trouble, start=1):
                wanted = options.points * number // (len(trouble) + 2)
                while done(folder) < wanted and process.poll() is None:
                    time.sleep(0.2)
                make(folder)
                made.append(name)
            sweep = finished(folder, process, began)
            rows.append(
                {"executor": executor, "made": made, "command_seconds": sweep.seconds, **counted(sweep, folder)}
            )
            print(rows[-1], flush=True)
    return rows


def done(folder: Path) -> int:
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


def kill_a_ray_node(cluster: RayCluster, folder: Path) -> None:
    """SIGKILL to all processes of the second node."""
    cluster.kill(1)


def preempt(variables: dict[str, str], folder: Path) -> None:
    """A job of more urgency takes a node."""
    subprocess.run(
        ["sbatch", "--partition=urgent", "--nodes=1", "--exclusive", "--output=/dev/null", "--chdir=/", "--wrap", "sleep 1"],
        env=environment_of(**variables), check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def kill_a_slurm_node(variables: dict[str, str], folder: Path) -> None:
    """SIGKILL to a node's daemon and to all that it has started."""
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
    from faults.comparison import differences

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


TITLES = {
    "faults": "Points and rows, while things break",
    "overhead": "What a point costs beside its training, by executor; two workers",
    "workers": "Wall time against workers, with points that sleep",
    "points": "Points of nothing, without MLflow",
    "points_tracked": "Points of nothing, with MLflow on SQLite",
}


def report(known: dict[str, Row]) -> str:
    """The results as a page."""
    lines = [
        "# Running points somewhere",
        "",
        "Made by `scripts/bench_executors.py`, whose first lines say what each table means; `results.json` has the figures in full.",
        "Clusters are of one machine: their nodes share its cores, so these figures are about overhead and about what is lost, not",
        "about speed. Other work ran on the machine at the same time.",
    ]
    for name, title in TITLES.items():
        if name not in known:
            continue
        rows = known[name]["rows"]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {title}", "", f"On {known[name]['machine']}, {len(os.sched_getaffinity(0))} cores.", ""]
        lines += ["| " + " | ".join(key.replace("_", " ") for key in keys) + " |", "|" + "---|" * len(keys)]
        lines += ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,.3g}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "workers", "points", "faults"])
    parser.add_argument("--executors", default="local,slurm,ray")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--counts", default="1000,2000,5000,10000")
    parser.add_argument("--tracked", action="store_true")
    options = parser.parse_args()
    rows = {"overhead": overhead, "workers": workers, "points": points, "faults": faults}[options.what](options)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    name = options.what + ("_tracked" if options.tracked else "")
    again = {row.get("executor") for row in rows}
    kept = [row for row in known.get(name, {}).get("rows", []) if "executor" in row and row["executor"] not in again]
    known[name] = {"machine": environment.processor(), "rows": [*kept, *rows]}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    RESULTS.with_name("README.md").write_text(report(known))
    table = Table(*rows[0].keys())
    for row in rows:
        table.add_row(*(f"{value:,.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=200).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["stand-in"]:
        stand_in()
    elif sys.argv[1:2] == ["sweep-with-stand-ins"]:
        sweep_with_stand_ins()
    else:
        main()
