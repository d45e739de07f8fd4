"""``python train.py -m`` as a user runs it, and everything that may go wrong in it: real processes, a real store."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from gradlab.tracking.folder import SweepFolder
from gradlab.tracking.journal import metric_rows, records
from processes import ROOT, Finished, environment, gradlab, train

FAULTY = Path(__file__).parent / "faulty"
SMALL = ["trainer.max_steps=20", "trainer.max_epochs=null"]
IMPORTABLE = os.pathsep.join([str(FAULTY), *filter(None, [os.environ.get("PYTHONPATH")])])


def sweep_of(folder: Path) -> tuple[SweepFolder, dict[str, Any]]:
    """The one sweep below ``folder``, and what its sweep.json says."""
    (path,) = (folder / "outputs").glob("*_sweep_*")
    return SweepFolder(path), json.loads((path / "sweep.json").read_text())


def stored(folder: Path) -> tuple[Run, list[Run]]:
    """The parent run and its children in the store of ``folder``; there is nothing else."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("gradlab")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    return parent, children


def processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and int(process.name) != os.getpid():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A sweep in which everything goes wrong that a point can do wrong."""
    return train(
        tmp_path_factory.mktemp("faults"),
        *("--config-dir", str(FAULTY), "imports=[faulty]", "model=faulty", "optimizer=sgd", *SMALL),
        *("model.how=raise,exit,vanish,die_once,diverge,fine", "-m", "hydra.launcher.workers=2"),
        PYTHONPATH=IMPORTABLE,
        timeout=900,
    )


def test_a_sweep_goes_on_whatever_a_point_does(faults: Finished) -> None:
    assert faults.status == 1, faults.out + faults.err
    folder, sweep = sweep_of(faults.folder)
    assert sweep["status"] == "failed"
    assert sweep["swept"] == ["model.how"]
    found = {point["name"]: (point["status"], point["tries"]) for point in sweep["points"]}
    assert found == {
        "how=raise": ("failed", 1),
        "how=exit": ("failed", 1),
        "how=vanish": ("failed", 2),
        "how=die_once": ("finished", 2),
        "how=diverge": ("diverged", 1),
        "how=fine": ("finished", 1),
    }
    reasons = {point["name"]: point["reason"] for point in sweep["points"]}
    assert reasons["how=raise"] == "ArithmeticError: this point raises"
    assert "sys.exit(3)" in reasons["how=exit"]
    assert reasons["how=vanish"] == "its worker ended with exit status 7, twice"
    for point in sweep["points"]:
        result = json.loads((folder.path / point["folder"] / "result.json").read_text())
        assert result["status"] == point["status"]
        kinds = [record["kind"] for record, _ in records(folder.path / point["folder"] / "journal.jsonl")]
        assert kinds.count("run") == kinds.count("end") == 1
        assert "a faulty network is built" in (folder.path / point["folder"] / "console.log").read_text()
    assert len(list(folder.runs.iterdir())) == sum(point["tries"] for point in sweep["points"])
    assert not folder.logs.exists()


def test_a_sweep_with_failures_lists_them(faults: Finished) -> None:
    assert "3 done, 3 left (1 diverged, 3 failed)" in faults.out
    assert "how=raise: ArithmeticError: this point raises" in faults.out
    assert "its worker was killed by SIGKILL, perhaps for want of memory; it is tried once more" in faults.out
    assert "a faulty network" not in faults.out
    assert faults.err == ""


def test_mlflow_has_the_sweep_as_a_parent_and_a_nested_run_for_each_try(faults: Finished) -> None:
    parent, children = stored(faults.folder)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["sweep/finished"] == 2
    assert parent.data.params["optimizer.lr"]
    assert "model.how" not in parent.data.params
    _, sweep = sweep_of(faults.folder)
    assert sweep["parent_run_id"] == parent.info.run_id
    statuses = Counter((run.info.run_name, run.info.status) for run in children)
    assert statuses == {
        ("how=raise", "FAILED"): 1,
        ("how=exit", "FAILED"): 1,
        ("how=vanish", "FAILED"): 2,
        ("how=die_once", "FAILED"): 1,
        ("how=die_once", "FINISHED"): 1,
        ("how=diverge", "FINISHED"): 1,
        ("how=fine", "FINISHED"): 1,
    }


def test_mlflow_has_charts_of_the_sweep_alone(faults: Finished) -> None:
    client = MlflowClient(f"sqlite:///{faults.folder}/mlflow.db")
    parent, children = stored(faults.folder)
    tags = client.get_experiment(parent.info.experiment_id).tags
    state = json.loads(tags[f"mlflow.sharedViewState.sweep-{parent.info.run_id}"])
    shown = client.search_runs([parent.info.experiment_id], state["searchFilter"], order_by=[state["orderByKey"]])
    assert {run.info.run_id for run in shown} == {run.info.run_id for run in children}
    assert [chart["type"] for chart in state["compareRunCharts"]] == ["PARALLEL", "LINE", "LINE"]
    assert state["compareRunCharts"][0]["selectedParams"] == ["model.how"]
    rates = {float(run.data.params["log10_lr"]) for run in children}
    assert rates == {round(math.log10(float(run.data.params["optimizer.lr"])), 6) for run in children}


def test_mlflow_has_every_row_of_every_journal(faults: Finished) -> None:
    client = MlflowClient(f"sqlite:///{faults.folder}/mlflow.db")
    folder, _ = sweep_of(faults.folder)
    _, children = stored(faults.folder)
    compared = 0
    for run in children:
        rows = [
            (step, values["train/loss"])
            for step, values in metric_rows(Path(run.data.tags["gradlab.folder"]) / "journal.jsonl")
            if math.isfinite(values.get("train/loss", math.nan))  # MLflow has the others as tags
        ]
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in history] == [step for step, _ in rows]
        compared += len(rows)
    assert compared > 20
    synced = gradlab(faults.folder, "sync", str(folder.path))
    assert synced.status == 0, synced.err
    assert synced.out.count(": 0 rows shipped") == 1 + len(children)


def test_resuming_tries_the_failed_points_again_and_only_those(faults: Finished) -> None:
    before = {path.name for path in sweep_of(faults.folder)[0].runs.iterdir()}
    arguments = re.search(r"^to run what is left: +python train.py (.*)$", faults.out, re.MULTILINE)
    assert arguments
    assert arguments[1].endswith("resume=true")
    fail_fast = train(
        faults.folder,
        *("--config-dir", str(FAULTY), "imports=[faulty]", "model=faulty", "optimizer=sgd", *SMALL),
        *(
            "model.how=raise,exit,fine",
            "-m",
            "hydra.launcher.workers=1",
            "hydra.launcher.fail_fast=true",
            "resume=true",
        ),
        PYTHONPATH=IMPORTABLE,
    )
    assert fail_fast.status == 1, fail_fast.out + fail_fast.err
    folder, sweep = sweep_of(faults.folder)
    (new,) = {path.name for path in folder.runs.iterdir()} - before
    assert new.endswith("how=raise")
    assert {point["name"]: point["tries"] for point in sweep["points"]}["how=raise"] == 2
    assert "3 of 6 points are done" in fail_fast.out
    assert "how=raise failed, and hydra.launcher.fail_fast is set" in fail_fast.err


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder, env=environment(PYTHONPATH=IMPORTABLE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.02)


def results(folder: Path) -> list[Path]:
    return list((folder / "outputs").glob("*_sweep_*/runs/*/result.json"))


def running(folder: Path) -> list[Path]:
    """Folders of runs that train."""
    runs = (folder / "outputs").glob("*_sweep_*/runs/*/journal.jsonl")
    return [
        path.parent for path in runs if "train/loss" in path.read_text() and not (path.parent / "result.json").exists()
    ]


def assert_each_point_once(folder: Path, points: int, seen: dict[str, bytes]) -> None:
    """Every point has one run that finished, and no file of a run that was there has been written again."""
    sweep, content = sweep_of(folder)
    finished: Counter[str] = Counter()
    for run in sweep.run_folders():
        first, _ = next(records(run.journal))
        finished[first["point"]] += (
            json.loads(run.result.read_text())["status"] == "finished" if run.result.exists() else 0
        )
    assert sorted(finished) == sorted(point["id"] for point in content["points"])
    assert list(finished.values()) == [1] * points
    for name, was in seen.items():
        assert (folder / name).read_bytes() == was


def snapshot(folder: Path) -> dict[str, bytes]:
    """Of runs that are done; one that was killed is gone on with where it is."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in results(folder)}
    return {name: content for name, content in contents.items() if json.loads(content)["status"] != "killed"}


def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed while it starts; killed while a point trains; stopped by Ctrl-C; then left alone."""
    arguments = [
        *("-m", "--config-dir", str(FAULTY), "imports=[faulty]", "model=faulty", "optimizer=sgd", "model.how=slow"),
        *(
            "trainer.max_epochs=null",
            "trainer.max_steps=24",
            "seed=range(4)",
            "hydra.launcher.workers=1",
            "tracking=none",
        ),
    ]
    process = start(tmp_path, *arguments)
    wait_until(lambda: bool(list((tmp_path / "outputs").glob("*_sweep_*/sweep.json"))), process)
    process.kill()
    process.communicate(timeout=900)

    process = start(tmp_path, *arguments, "resume=true")
    wait_until(lambda: bool(results(tmp_path)) and bool(running(tmp_path)), process)
    process.kill()
    process.communicate(timeout=900)
    seen, dead = snapshot(tmp_path), set(running(tmp_path))

    process = start(tmp_path, *arguments, "resume=true")
    wait_until(lambda: len(results(tmp_path)) > len(seen) and bool(set(running(tmp_path)) - dead), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 130, out + err
    assert re.search(r"^[123] done, [123] left, ", out, re.MULTILINE), out
    assert "resume=true" in out.rsplit("to run what is left:", 1)[1]
    _, content = sweep_of(tmp_path)
    assert content["status"] == "killed"
    (killed,) = [point for point in content["points"] if point["status"] == "killed"]
    assert (next((tmp_path / "outputs").glob("*_sweep_*")) / killed["folder"] / "checkpoints" / "last").is_dir()
    seen |= snapshot(tmp_path)

    finished = train(tmp_path, *arguments, "resume=true", PYTHONPATH=IMPORTABLE, timeout=900)
    assert finished.status == 0, finished.out + finished.err
    assert_each_point_once(tmp_path, 4, seen)
    assert sweep_of(tmp_path)[1]["status"] == "finished"
    assert processes_in(tmp_path) == []
    again = train(tmp_path, *arguments, "resume=true", PYTHONPATH=IMPORTABLE)
    assert again.status == 0
    assert "4 of 4 points are done" in again.out
    assert_each_point_once(tmp_path, 4, snapshot(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    """With tracking and two workers: in the end each point is done once, in its folder and in MLflow."""
    arguments = [
        *("-m", "--config-dir", str(FAULTY), "imports=[faulty]", "model=faulty", "optimizer=sgd", "model.how=slow"),
        *("trainer.max_epochs=null", "trainer.max_steps=25", "seed=range(24)", "hydra.launcher.workers=2"),
    ]
    chance = random.Random(0)
    seen: dict[str, bytes] = {}
    for _ in range(20):
        process = start(tmp_path, *arguments, "resume=true")
        try:
            process.wait(timeout=chance.uniform(0.5, 20))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=900)
        for name, was in seen.items():
            assert (tmp_path / name).read_bytes() == was
        seen |= snapshot(tmp_path)
    finished = train(tmp_path, *arguments, "resume=true", PYTHONPATH=IMPORTABLE, timeout=900)
    assert finished.status == 0, finished.out + finished.err
    assert_each_point_once(tmp_path, 24, seen)
    assert processes_in(tmp_path) == []
    parent, children = stored(tmp_path)
    assert parent.info.status == "FINISHED"
    done = [run for run in children if run.info.status == "FINISHED"]
    assert len(done) == len({run.data.params["seed"] for run in done}) == 24
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}


@pytest.mark.slow
def test_two_sweeps_and_a_run_at_once_over_one_cold_store(tmp_path: Path) -> None:
    """And a point of a sweep has the bits that it has alone."""
    arguments = ["optimizer=adam", "model=logistic", *SMALL, "hydra.launcher.workers=1"]
    started = [start(tmp_path, "-m", *arguments, f"seed={seeds}") for seeds in ("0,1,0", "2,3")]
    alone = start(tmp_path, *arguments[:-1], "seed=1", "plots=false")
    for process in (*started, alone):
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out + err
        assert "not in MLflow" not in out
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "gradlab"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 + 4 + 1  # a point that is named twice is run once
    assert {run.info.status for run in runs} == {"FINISHED"}
    bits: dict[int, set[tuple[str, int]]] = {}
    for result in [*results(tmp_path), next((tmp_path / "outputs").glob("*logistic*/result.json"))]:
        content = json.loads(result.read_text())
        bits.setdefault(content["seed"], set()).add((content["parameters_sha256"], content["threads"]))
    assert sorted(bits) == [0, 1, 2, 3]
    assert all(len(found) == 1 for found in bits.values())
    plots = [yaml.safe_load((result.parent / "config.yaml").read_text())["plots"] for result in results(tmp_path)]
    assert plots == [False] * 4


@pytest.mark.slow
def test_eight_workers_lose_no_row(tmp_path: Path) -> None:
    finished = train(
        tmp_path, "-m", "model=logistic", *SMALL, "seed=range(24)", "hydra.launcher.workers=8", timeout=900
    )
    assert finished.status == 0, finished.out + finished.err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    _, children = stored(tmp_path)
    assert len(children) == 24
    for run in children:
        rows = [
            step
            for step, values in metric_rows(Path(run.data.tags["gradlab.folder"]) / "journal.jsonl")
            if "train/loss" in values
        ]
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == rows
        assert len(rows) == 20


def test_a_full_disk_fails_points_not_the_sweep(tmp_path: Path) -> None:
    """On a file system of a few hundred kilobytes, mounted in a name space of its own."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=300k none {small} && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system, even in a name space of its own")
    done = subprocess.run(
        [*mounted, sys.executable, str(ROOT / "train.py"), "-m", "model=logistic", *SMALL, "seed=range(12)",
         f"output_dir={small}", "tracking=none", "hydra.launcher.workers=1", "hydra.launcher.population=off"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left on device" in done.stdout
    assert re.search(r"^[1-9]\d* done, [1-9]\d* left", done.stdout, re.MULTILINE), done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_hydras_basic_launcher_still_runs_one_after_the_other(tmp_path: Path) -> None:
    finished = train(
        tmp_path, "model=logistic", "optimizer=sgd,adam", "-m", "hydra/launcher=basic", *SMALL, "tracking=none", "plots=false"
    )  # fmt: skip
    assert finished.status == 0, finished.err
    chosen = [yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["name"] for run in finished.runs]
    assert chosen == ["sgd", "adam"]


def test_a_sweeper_may_give_its_points_in_batches(tmp_path: Path) -> None:
    """As one does that decides on the next by the last: one sweep, one set of workers."""
    arguments = ["model=logistic", *SMALL, "seed=0,1,2", "tracking=none", "hydra.launcher.workers=1"]
    finished = train(tmp_path, "-m", *arguments, "hydra.sweeper.max_batch_size=2", timeout=900)
    assert finished.status == 0, finished.out + finished.err
    folder, sweep = sweep_of(tmp_path)
    assert [point["name"] for point in sweep["points"]] == ["seed=0", "seed=1", "seed=2"]
    assert sweep["swept"] == ["seed"]
    kinds = [record["kind"] for record, _ in records(folder.journal)]
    assert kinds.count("run") == kinds.count("end") == 1
