"""Sweeps on a real Ray: one that is started here, and a cluster of two nodes on this machine, one of which is killed."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executors.clusters import MOUNTED, RayCluster, ray
from executors.running import TRAIN, begin, environment_of, scratch
from gradlab.tracking.journal import metric_rows, records
from processes import train

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
USUAL = {"PYTHONPATH": environment_of(PYTHONPATH=str(FAULTY))["PYTHONPATH"], "RAY_worker_niceness": "0"}


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    pytest.importorskip("ray", reason="needs Ray: bash scripts/services.sh")
    with scratch() as folder, ray(folder, 1) as made:
        made.variables |= USUAL
        yield made


def start(folder: Path, cluster: RayCluster, *arguments: str) -> "subprocess.Popen[str]":
    return begin(folder, TRAIN, [*SLOW[1:], cluster.address, *arguments], **cluster.variables)


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
    finished = train(tmp_path, *SLOW, "seed=0,1,2", "hydra.launcher.workers=2", timeout=900, **USUAL)
    assert finished.status == 0, finished.out + finished.err
    assert_each_point_once(tmp_path, 3)


def test_a_node_that_dies_costs_its_points_a_retry_from_their_checkpoints(tmp_path: Path, cluster: RayCluster) -> None:
    """And one that joins in the middle is used."""
    process = start(tmp_path, cluster, "seed=range(6)")
    wait_until(lambda: bool(journals(tmp_path)), process)
    cluster.add(2)

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
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    assert "its node or its actor there died" in out
    assert_each_point_once(tmp_path, 6)
    resumed = [[record["kind"] for record, _ in records(path)].count("resumed") for path in journals(tmp_path)]
    assert sorted(resumed)[-2:] == [1, 1]


def test_a_node_without_the_sweeps_storage_sends_its_runs(tmp_path: Path, cluster: RayCluster) -> None:
    if subprocess.run([*MOUNTED, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system, even in a name space of its own")
    cluster.add(2, "--resources", '{"apart": 2}', without=tmp_path)
    scratch = cluster.folder / "scratch"
    process = start(
        tmp_path,
        cluster,
        "seed=range(3)",
        "hydra.launcher.ray.resources={apart: 1}",
        f"hydra.launcher.ray.scratch={scratch}",
    )
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    assert_each_point_once(tmp_path, 3)
    assert not list(scratch.glob("*"))


def test_what_is_wrong_with_ray_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: bash scripts/services.sh")
    finished = train(tmp_path, *SLOW, "seed=0,1", "hydra.launcher.ray.address=127.0.0.1:1", timeout=900, **USUAL)
    assert finished.status == 1
    assert "Ray cannot be reached" in finished.err
