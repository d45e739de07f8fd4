"""Sweeps on a real Ray: one that is started here, and a cluster of two nodes on this machine, one of which is killed."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gradlab.tracking.journal import metric_rows, records
from processes import ROOT, environment, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FAULTY = Path(__file__).parent / "faulty"
SLOW = [
    *("-m", "--config-dir", str(FAULTY), "imports=[faulty]", "model=faulty", "model.how=slow", "optimizer=sgd"),
    *(
        "trainer.max_epochs=null",
        "trainer.max_steps=60",
        "trainer.checkpoint_every=10 steps",
        "trainer.log_every=1 steps",
    ),
    *("tracking=none", "hydra.launcher.population=off", "hydra.launcher.executor=ray"),
]
# Ray's workers are nice to all else on a machine, by 15; on a busy one tests would take for ever.
USUAL = {"PYTHONPATH": str(FAULTY), "RAY_worker_niceness": "0"}
MOUNTED = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh"]


@dataclass
class Cluster:
    """Nodes of Ray on this machine, each a process group."""

    folder: Path
    port: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    nodes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, **USUAL}

    def add(self, *options: str, without: Path | None = None) -> None:
        """Start a node, the head first; one ``without`` a folder sees nothing in it."""
        where = (
            [f"--address=127.0.0.1:{self.port}"]
            if self.nodes
            else ["--head", f"--port={self.port}", "--include-dashboard=false"]
        )
        where += [] if self.nodes else [f"--temp-dir={self.folder}"]
        ray = str(Path(sys.executable).parent / "ray")
        mount = [*MOUNTED, str(without)] if without else []
        with (self.folder.parent / f"node{len(self.nodes)}.log").open("w") as log:
            self.nodes.append(
                subprocess.Popen(
                    [*mount, ray, "start", *where, *options, "--disable-usage-stats", "--block"],
                    env=environment(**self.variables), stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while self.active() < len(self.nodes):
            assert time.monotonic() < deadline
            time.sleep(1)

    def active(self) -> int:
        """How many nodes the cluster says that it has."""
        ray = str(Path(sys.executable).parent / "ray")
        told = subprocess.run(
            [ray, "status", "--address", f"127.0.0.1:{self.port}"],
            env=environment(**self.variables), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return told.stdout.partition("Pending:")[0].count("node_")

    def kill(self, node: int) -> None:
        os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="needs Ray: bash scripts/services.sh")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(f"/tmp/gradlab-ray-{port}")  # its sockets' paths must be short
    (folder / "ray").mkdir(parents=True)
    made = Cluster(folder / "ray", port)
    try:
        made.add("--num-cpus=1")
        yield made
    finally:
        for node in made.nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, cluster: Cluster, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *SLOW, f"hydra.launcher.ray.address=127.0.0.1:{cluster.port}", *arguments],
        cwd=folder, env=environment(**cluster.variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.1)


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "outputs").glob("*_sweep_*/runs/*/journal.jsonl"))


def assert_each_point_once(folder: Path, count: int) -> None:
    """Every point finished in one run, with one row for each of its 60 steps."""
    (path,) = (folder / "outputs").glob("*_sweep_*")
    points = json.loads((path / "sweep.json").read_text())["points"]
    assert [point["status"] for point in points] == ["finished"] * count
    for point in points:
        run = path / point["folder"]
        assert json.loads((run / "result.json").read_text())["status"] == "finished"
        rows = Counter(step for step, values in metric_rows(run / "journal.jsonl") if "train/loss" in values)
        assert rows == Counter(range(1, 61))
        first, _ = next(records(run / "journal.jsonl"))
        assert first["tags"]["gradlab.folder"] == str(run)


def test_a_ray_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: bash scripts/services.sh")
    finished = train(tmp_path, *SLOW, "seed=0,1,2", "hydra.launcher.workers=2", timeout=400, **USUAL)
    assert finished.status == 0, finished.out + finished.err
    assert_each_point_once(tmp_path, 3)


def test_a_node_that_dies_costs_its_points_a_retry_from_their_checkpoints(tmp_path: Path, cluster: Cluster) -> None:
    """And one that joins in the middle is used."""
    process = start(tmp_path, cluster, "seed=range(6)")
    wait_until(lambda: bool(journals(tmp_path)), process)
    cluster.add("--num-cpus=2")

    def trained_beyond(step: int) -> bool:
        at = [max((step for step, _ in metric_rows(path)), default=0) for path in journals(tmp_path)]
        return (
            sum(
                one > step and not (path.parent / "result.json").exists()
                for one, path in zip(at, journals(tmp_path), strict=True)
            )
            >= 3
        )

    wait_until(lambda: trained_beyond(12), process)
    cluster.kill(1)
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    assert "its node or its actor there died" in out
    assert_each_point_once(tmp_path, 6)
    resumed = [[record["kind"] for record, _ in records(path)].count("resumed") for path in journals(tmp_path)]
    assert sorted(resumed)[-2:] == [1, 1]


def test_a_node_without_the_sweeps_storage_sends_its_runs(tmp_path: Path, cluster: Cluster) -> None:
    if subprocess.run([*MOUNTED, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system, even in a name space of its own")
    cluster.add("--num-cpus=2", "--resources", '{"apart": 2}', without=tmp_path)
    scratch = cluster.folder.parent / "scratch"
    process = start(
        tmp_path,
        cluster,
        "seed=range(3)",
        "hydra.launcher.ray.resources={apart: 1}",
        f"hydra.launcher.ray.scratch={scratch}",
    )
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    assert_each_point_once(tmp_path, 3)
    assert not list(scratch.glob("*"))


def test_what_is_wrong_with_ray_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: bash scripts/services.sh")
    finished = train(tmp_path, *SLOW, "seed=0,1", "hydra.launcher.ray.address=127.0.0.1:1", timeout=200, **USUAL)
    assert finished.status == 1
    assert "Ray cannot be reached" in finished.err
