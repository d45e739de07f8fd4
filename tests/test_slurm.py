"""Sweeps as jobs of a real SLURM: a cluster of this one machine, whose daemons this file starts (scripts/slurm_cluster.sh)."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executors.clusters import slurm, slurm_is_here
from executors.running import ROOT, TRAIN, begin, environment_of
from executors.trouble import preempt
from gradlab.tracking.journal import metric_rows, records
from processes import Finished, environment, train

FAULTY = Path(__file__).parent / "faulty"
IMPORTABLE = environment_of(PYTHONPATH=str(FAULTY))["PYTHONPATH"]
# Steps of a tenth of a second, so that there is time to be interrupted in; checkpoints of every few.
SLOW = [
    *("-m", "--config-dir", str(FAULTY), "imports=[faulty]", "model=faulty", "model.how=slow", "optimizer=sgd"),
    *("trainer.max_epochs=null", "trainer.checkpoint_every=10 steps", "trainer.log_every=1 steps", "tracking=none"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two nodes of two cores; the variables with which programs find it."""
    pytest.importorskip("submitit", reason="needs submitit: bash scripts/services.sh")
    if not slurm_is_here():
        pytest.skip("needs SLURM: bash scripts/services.sh")
    with slurm(tmp_path_factory.mktemp("slurm"), 2, 2) as variables:
        yield {**variables, "PYTHONPATH": IMPORTABLE}


def jobs(cluster: dict[str, str], *options: str) -> list[str]:
    """What squeue says of this user's jobs, by --format in ``options``."""
    told = subprocess.run(
        ["squeue", "--noheader", "--array", *options], env=environment(**cluster), capture_output=True, text=True, check=True
    )  # fmt: skip
    return told.stdout.split()


@contextlib.contextmanager
def sweep(folder: Path, cluster: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A sweep that is being run."""
    process = begin(folder, TRAIN, [*SLOW[1:], "hydra.launcher.executor=slurm", *arguments], **cluster)
    try:
        yield process
    finally:
        process.kill()
        subprocess.run(["scancel", "--user", str(os.getuid())], env=environment(**cluster), check=False)


def ended(process: "subprocess.Popen[str]", status: int = 0, timeout: float = 900) -> str:
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == status, out
    return out


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[0])
        time.sleep(0.1)


def steps(folder: Path) -> list[int]:
    """The last step of each run that is in training."""
    found = []
    for journal in (folder / "outputs").glob("*_sweep_*/runs/*/journal.jsonl"):
        rows = [step for step, values in metric_rows(journal) if "train/loss" in values]
        if rows and not (journal.parent / "result.json").exists():
            found.append(rows[-1])
    return found


def assert_each_point_once(folder: Path, count: int, length: int) -> dict[str, dict[str, Any]]:
    """Every point finished in one run, with one row for every step; returns what each came to, by its name."""
    (path,) = (folder / "outputs").glob("*_sweep_*")
    content = json.loads((path / "sweep.json").read_text())
    assert content["status"] == "finished"
    assert len(content["points"]) == count
    assert len(list((path / "runs").iterdir())) == count
    found = {}
    for point in content["points"]:
        run = path / point["folder"]
        result = json.loads((run / "result.json").read_text())
        assert result["status"] == point["status"] == "finished"
        rows = Counter(step for step, values in metric_rows(run / "journal.jsonl") if "train/loss" in values)
        assert rows == Counter(range(1, length + 1))
        assert [record["kind"] for record, _ in records(run / "journal.jsonl")].count("run") == 1
        found[point["name"]] = {**point, **result}
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The SHA-256 of what two points of 60 steps are trained to on this machine, without SLURM."""
    folder = tmp_path_factory.mktemp("here")
    finished: Finished = train(
        folder,
        *SLOW,
        "trainer.max_steps=60",
        "seed=0,1",
        "hydra.launcher.population=off",
        timeout=900,
        PYTHONPATH=IMPORTABLE,
    )
    assert finished.status == 0, finished.err
    return {name: result["parameters_sha256"] for name, result in assert_each_point_once(folder, 2, 60).items()}


TWO = ["seed=0,1", "trainer.max_steps=60", "hydra.launcher.population=off"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_points_are_jobs_of_an_array_and_end_as_here(
    tmp_path: Path, cluster: dict[str, str], here: dict[str, str]
) -> None:
    with sweep(tmp_path, cluster, *TWO) as process:
        wait_until(lambda: len(steps(tmp_path)) == 2, process)
        array = {job.partition("_")[0] for job in jobs(cluster, "--format=%i")}
        assert len(array) == 1
        out = ended(process)
    assert "2 done" in out
    found = assert_each_point_once(tmp_path, 2, 60)
    assert {name: point["parameters_sha256"] for name, point in found.items()} == here


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_preempted_jobs_are_requeued_and_go_on_in_the_same_runs(
    tmp_path: Path, cluster: dict[str, str], here: dict[str, str]
) -> None:
    with sweep(tmp_path, cluster, *TWO) as process:
        wait_until(lambda: len(steps(tmp_path)) == 2 and min(steps(tmp_path)) > 12, process)
        preempt(cluster, nodes=2)
        ended(process)
    found = assert_each_point_once(tmp_path, 2, 60)
    assert {name: point["parameters_sha256"] for name, point in found.items()} == here
    assert {point["tries"] for point in found.values()} == {1}
    for journal in (tmp_path / "outputs").glob("*/runs/*/journal.jsonl"):
        assert "resumed" in [record["kind"] for record, _ in records(journal)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_whose_time_is_up_is_requeued_and_goes_on(tmp_path: Path, cluster: dict[str, str]) -> None:
    """SLURM tells a job up to 30 seconds earlier than asked for, and counts in minutes; the point takes longer than is left."""
    settings = ["hydra.launcher.slurm.time=2", "hydra.launcher.slurm.signal_seconds=20"]
    with sweep(
        tmp_path, cluster, "seed=0,1", "trainer.max_steps=900", "hydra.launcher.population=off", *settings
    ) as process:
        ended(process)
    assert_each_point_once(tmp_path, 2, 900)
    for journal in (tmp_path / "outputs").glob("*/runs/*/journal.jsonl"):
        assert "resumed" in [record["kind"] for record, _ in records(journal)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_is_left_and_joined_again(tmp_path: Path, cluster: dict[str, str], here: dict[str, str]) -> None:
    """By Ctrl-C, and by a crash of its process; jobs go on without it."""
    one_at_once = [*TWO, "hydra.launcher.workers=1"]
    with sweep(tmp_path, cluster, *one_at_once) as process:
        wait_until(lambda: bool(steps(tmp_path)), process)
        process.send_signal(signal.SIGINT)
        out = ended(process, 130)
        assert "Its jobs go on without this command" in out
        assert re.search(r"scancel --name=gradlab-\w{8}$", out, re.MULTILINE)
        before = sorted(jobs(cluster, "--format=%i"))
        assert len(before) == 2  # one runs, one waits
        (path,) = (tmp_path / "outputs").glob("*_sweep_*")
        assert json.loads((path / "sweep.json").read_text())["status"] == "left"
        with sweep(tmp_path, cluster, *one_at_once, "resume=true") as again:
            time.sleep(15)
            again.kill()
            again.communicate()
            assert set(jobs(cluster, "--format=%i")) <= set(before)
            with sweep(tmp_path, cluster, *one_at_once, "resume=true") as last:
                ended(last)
    found = assert_each_point_once(tmp_path, 2, 60)
    assert {name: point["parameters_sha256"] for name, point in found.items()} == here
    assert {point["tries"] for point in found.values()} == {1}
    assert len(list(path.glob("jobs/*/job.json"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_costs_its_point_a_retry_from_its_checkpoint(
    tmp_path: Path, cluster: dict[str, str], here: dict[str, str]
) -> None:
    with sweep(tmp_path, cluster, *TWO, "hydra.launcher.slurm.points_per_job=2") as process:
        wait_until(lambda: bool(list((tmp_path / "outputs").glob("*/runs/*/checkpoints/last"))), process)
        (journal,) = (tmp_path / "outputs").glob("*/runs/*/journal.jsonl")
        first, _ = next(records(journal))
        os.kill(first["process"]["pid"], signal.SIGKILL)
        out = ended(process)
    assert "its worker was killed by SIGKILL" in out
    found = assert_each_point_once(tmp_path, 2, 60)
    assert {name: point["parameters_sha256"] for name, point in found.items()} == here


def submitted(folder: Path, cluster: dict[str, str], script: str, *arguments: str) -> str:
    """The id of a job of ``scripts/slurm/``, submitted in a folder with what such a one has; GPUs are left out of it."""
    for name, target in ((".venv", Path(sys.prefix)), ("train.py", ROOT / "train.py")):
        (folder / name).symlink_to(target)
    command = [
        "sbatch",
        "--parsable",
        "--gres=none",
        "--mem=0",
        "--cpus-per-task=1",
        "--time=30",
        f"--output={folder}/job.log",
    ]
    done = subprocess.run(
        [*command, str(ROOT / "scripts/slurm" / script), *SLOW[1:], "hydra.launcher.population=off", *arguments],
        cwd=folder, env=environment_of(**cluster), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def job_state(cluster: dict[str, str], job: str) -> str:
    told = subprocess.run(
        ["scontrol", "show", "job", job], env=environment_of(**cluster), capture_output=True, text=True, check=True
    )
    state = told.stdout.partition("JobState=")[2].split()[0]
    assert state not in ("FAILED", "TIMEOUT", "NODE_FAIL"), told.stdout
    return state


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_of_a_run_is_preempted_requeued_and_goes_on(tmp_path: Path, cluster: dict[str, str]) -> None:
    job = submitted(tmp_path, cluster, "run.sbatch", "trainer.max_steps=150")

    def trained() -> bool:
        rows = [path.read_text().count("train/loss") for path in tmp_path.glob("outputs/*/*/journal.jsonl")]
        return bool(rows) and rows[0] > 12

    wait_for(trained)
    preempt(cluster, nodes=2)
    wait_for(lambda: job_state(cluster, job) == "COMPLETED", 400)
    (journal,) = tmp_path.glob("outputs/*/*/journal.jsonl")
    kinds = [record["kind"] for record, _ in records(journal)]
    assert (kinds.count("run"), kinds.count("resumed"), kinds.count("end")) == (1, 1, 1)
    rows = Counter(step for step, values in metric_rows(journal) if "train/loss" in values)
    assert rows == Counter(range(1, 151))


@pytest.mark.slow
def test_the_example_of_a_run_that_is_cancelled_stays_so(tmp_path: Path, cluster: dict[str, str]) -> None:
    job = submitted(tmp_path, cluster, "run.sbatch", "trainer.max_steps=1500")
    wait_for(lambda: any("train/loss" in path.read_text() for path in tmp_path.glob("outputs/*/*/journal.jsonl")))
    subprocess.run(["scancel", job], env=environment_of(**cluster), check=True)
    wait_for(lambda: job_state(cluster, job) == "CANCELLED")
    assert list(tmp_path.glob("outputs/*/*/checkpoints/last"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_of_a_sweep_submits_its_points(tmp_path: Path, cluster: dict[str, str]) -> None:
    launcher = ["hydra.launcher.slurm.gpus=0", "hydra.launcher.slurm.cpus=1", "hydra.launcher.slurm.time=30"]
    job = submitted(tmp_path, cluster, "sweep.sbatch", *launcher, "seed=0,1", "trainer.max_steps=60")
    wait_for(lambda: job_state(cluster, job) == "COMPLETED", 400)
    assert_each_point_once(tmp_path, 2, 60)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.slow
def test_what_slurm_would_not_take_is_said_before_anything_is_made(tmp_path: Path, cluster: dict[str, str]) -> None:
    finished = train(
        tmp_path,
        "-m",
        "seed=0,1",
        "hydra.launcher.executor=slurm",
        "hydra.launcher.slurm.partition=none",
        timeout=900,
        **cluster,
    )
    assert finished.status == 2
    assert "SLURM would not take a job" in finished.err
    assert "invalid partition" in finished.err
    assert not (tmp_path / "outputs").exists()


def test_without_slurm_a_sweep_says_what_is_missing(tmp_path: Path) -> None:
    finished = train(
        tmp_path, "-m", "seed=0,1", "hydra.launcher.executor=slurm", PATH="/nowhere", SLURM_CONF="/nowhere"
    )
    assert finished.status == 2
    assert "pip install 'gradlab[slurm]'" in finished.err or "there is no sbatch here" in finished.err
    assert not (tmp_path / "outputs").exists()
    finished = train(tmp_path, "-m", "seed=0,1", "hydra.launcher.slurm.cpus=0")
    assert finished.status == 2
    assert "hydra.launcher.slurm.cpus must be at least 1, not 0" in finished.err
