"""Runs whose process is gone get their end, in their folder and in MLflow; others are left alone."""

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gradlab.tracking.ending import end_gone_runs, end_if_gone, unended
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.journal import Journal, records
from gradlab.tracking.liveness import State, identity
from gradlab.tracking.replay import Replay
from gradlab.tracking.sync import settle, unshipped
from processes import gradlab

GONE = {**identity(), "pid": 10**9}
ELSEWHERE = {**identity(), "boot": "another machine's", "host": "another"}


def begin(path: Path, process: dict[str, Any] | None, rows: int = 3) -> RunFolder:
    """A run's folder with a journal that was begun by ``process`` (None: by this one) and has no end."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.config.write_text("tracking: {name: mlflow, uri: null}\n")
    journal = Journal(folder.journal)
    journal.write("run", id=f"{path.name}.1", name=path.name, experiment="gradlab", params={}, tags={})
    for step in range(rows):
        journal.metrics(step, {"train/loss": 1.0 / (step + 1)})
    journal.close()
    if process is not None:
        lines = folder.journal.read_text().splitlines()
        lines[0] = json.dumps({**json.loads(lines[0]), "process": process})
        folder.journal.write_text("\n".join(lines) + "\n")
    return folder


def last(folder: RunFolder) -> dict[str, Any]:
    return [record for record, _ in records(folder.journal)][-1]


def test_only_the_run_whose_process_is_gone_is_ended(tmp_path: Path) -> None:
    gone, mine, elsewhere = begin(tmp_path / "a", GONE), begin(tmp_path / "b", None), begin(tmp_path / "c", ELSEWHERE)
    (tmp_path / "no run").mkdir()
    before = {folder.path: folder.journal.read_bytes() for folder in (mine, elsewhere)}
    assert [found.state for found in unended(tmp_path)] == [State.GONE, State.ALIVE, State.UNKNOWN]
    assert [folder.path for folder in end_gone_runs(tmp_path)] == [gone.path]
    assert last(gone)["status"] == "KILLED"
    assert json.loads(gone.result.read_text()) == {"status": "killed", "reason": "the process vanished"}
    assert {path: (path / "journal.jsonl").read_bytes() for path in before} == before
    assert end_gone_runs(tmp_path) == []


def test_a_run_that_was_resumed_is_its_last_process(tmp_path: Path) -> None:
    folder = begin(tmp_path / "a", GONE)
    journal = Journal(folder.journal)
    journal.write("resumed")
    journal.close()
    assert not end_if_gone(folder)
    assert not end_if_gone(folder, over=True)
    assert last(folder)["kind"] == "resumed"


def test_a_run_elsewhere_is_ended_when_somebody_says_that_it_is_over(tmp_path: Path) -> None:
    folder = begin(tmp_path / "a", ELSEWHERE)
    assert not end_if_gone(folder)
    assert end_if_gone(folder, over=True)
    assert last(folder)["kind"] == "end"


def test_a_run_whose_journal_is_still_shipped_is_left_to_its_shipper(tmp_path: Path) -> None:
    folder = begin(tmp_path / "a", GONE)
    with folder.journal.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert end_gone_runs(tmp_path) == []
    assert len(end_gone_runs(tmp_path)) == 1


def test_a_result_that_was_written_is_the_truth(tmp_path: Path) -> None:
    folder = begin(tmp_path / "a", GONE)
    folder.write_result({"status": "finished"})
    assert list(unended(tmp_path)) == []  # such a run is looked at by `gradlab doctor` and its shipper only
    assert end_if_gone(folder)
    assert last(folder)["status"] == "FINISHED"
    assert json.loads(folder.result.read_text()) == {"status": "finished"}


def test_a_sweep_that_is_gone_is_ended_with_its_runs(tmp_path: Path) -> None:
    sweep = SweepFolder(begin(tmp_path / "s", GONE).path)
    runs = [begin(sweep.runs / name, process) for name, process in (("a", GONE), ("b", ELSEWHERE))]
    done = begin(sweep.runs / "c", GONE)
    journal = Journal(done.journal)
    journal.write("end", status="FINISHED")
    journal.close()
    points = [{"id": "1", "status": "running"}, {"id": "2", "status": "finished"}]
    sweep.record.write_text(json.dumps({"status": "running", "points": points}, indent=1))
    sweep.lock.write_text("1\n")
    with sweep.lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a worker of it lives
        assert end_gone_runs(tmp_path) == []
    assert [folder.path for folder in end_gone_runs(tmp_path)] == [sweep.path]
    assert [last(folder)["kind"] for folder in (sweep, *runs, done)] == ["end"] * 4
    content = json.loads(sweep.record.read_text())
    assert (content["status"], [point["status"] for point in content["points"]]) == ("killed", ["killed", "finished"])
    assert end_gone_runs(tmp_path) == []


def test_ten_thousand_ended_runs_are_passed_over_quickly(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number:05}").mkdir()
        (tmp_path / f"{number:05}" / "result.json").touch()
    gone = begin(tmp_path / "x", GONE)
    began = time.perf_counter()
    assert [folder.path for folder in end_gone_runs(tmp_path)] == [gone.path]
    assert time.perf_counter() - began < 3  # 0.1 s where nothing else runs


# ------------------------------------------------------------------------ MLflow


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def statuses(store: str) -> dict[str, str]:
    client = MlflowClient(store)
    found = client.get_experiment_by_name("gradlab")
    assert found is not None
    return {str(run.info.run_name): run.info.status for run in client.search_runs([found.experiment_id])}


def test_the_next_run_sets_the_truth_in_the_store(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    outputs = tmp_path / "outputs"
    shipped, alive = begin(outputs / "shipped", GONE), begin(outputs / "alive", None)
    for folder in (shipped, alive):
        Replay(folder, store).ship()
    never_shipped = begin(outputs / "never", GONE)
    ended = end_gone_runs(outputs)
    assert {folder.path for folder in ended} == {shipped.path, never_shipped.path}
    assert statuses(store) == {"shipped": "RUNNING", "alive": "RUNNING"}
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with alive.journal.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as its shipper does
        settle(outputs, ended, store, lambda: MlflowClient(store), lambda: False)
    process.communicate(b"\n")
    assert statuses(store) == {"shipped": "KILLED", "alive": "RUNNING", "never": "KILLED"}
    assert [folder.path for folder in unshipped(outputs)] == [alive.path]


def test_doctor_sets_the_truth_too(tmp_path: Path, store: str) -> None:
    folder = begin(tmp_path / "outputs" / "a", GONE)
    Replay(folder, store).ship()
    finished = gradlab(tmp_path, "doctor", MLFLOW_TRACKING_URI=store)
    assert "KILLED" in finished.out, finished.out + finished.err
    assert statuses(store) == {"a": "KILLED"}
    assert last(folder)["status"] == "KILLED"
