"""``gradlab show-schedule``, as a real process; a schedule's numbers are tested in test_schedules.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment, gradlab, train

PNG = b"\x89PNG\r\n\x1a\n"


def test_it_draws_and_lists_the_learning_rate(tmp_path: Path) -> None:
    shown = gradlab(
        tmp_path,
        "show-schedule",
        *("schedule=linear", "schedule.warmup=10%", "optimizer=sgd", "optimizer.lr=0.5"),
        *("trainer.max_epochs=null", "trainer.max_steps=101"),
    )
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0] == "linear schedule · sgd lr=0.5 · 101 steps (2.463 epochs of 41)"
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:-1]}
    assert list(rows) == ["1", "10", "11", "21", "31", "41", "51", "61", "71", "81", "91", "101"]
    assert rows["1"] == ["0.00", "0.1", "0.05"]  # the first of ten steps of warm-up
    assert rows["10"] == ["0.22", "1", "0.5"]  # the first at the whole rate
    assert rows["101"] == ["2.44", "0.01099", "0.005495"]  # 1/91
    assert lines[-1] == "drawn in linear_schedule.png"
    assert [path.name for path in tmp_path.iterdir()] == ["linear_schedule.png"]
    assert (tmp_path / "linear_schedule.png").read_bytes().startswith(PNG)


def test_it_draws_into_the_file_that_is_named(tmp_path: Path) -> None:
    shown = gradlab(tmp_path, "show-schedule", "--into", "mine.png", "schedule=one_cycle")
    assert shown.status == 0, shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.png").read_bytes().startswith(PNG)


def test_a_run_of_one_step_and_a_long_one(tmp_path: Path) -> None:
    for steps in (1, 1_000_000):
        shown = gradlab(tmp_path, "show-schedule", "trainer.max_epochs=null", f"trainer.max_steps={steps}")
        assert shown.status == 0, shown.err
        last = shown.out.splitlines()[-2].split()
        assert last[0] == f"{steps:,}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["schedule=cosin"],
        ["schedule=step", "schedule.every=0"],
        ["schedule=cosine", "schedule.warmpu=5%"],
        ["schedule.warmup=20 epochs"],
        ["optimizer.lr=[1"],
        ["optimizer.lr=-1"],
        ["optimzer=adam"],
        ["schedule=multi_step", "schedule.milestones=[10,20]"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_as_by_train(tmp_path: Path, arguments: list[str]) -> None:
    shown, trained = gradlab(tmp_path, "show-schedule", *arguments), train(tmp_path, *arguments)
    assert shown.status == trained.status == 2
    assert shown.out == ""
    message = trained.err.removeprefix("gradlab: wrong configuration. ")
    assert shown.err == f"gradlab show-schedule: {message}"
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_that_watches_validation_is_not_known_before(tmp_path: Path) -> None:
    shown = gradlab(tmp_path, "show-schedule", "schedule=plateau")
    assert shown.status == 2
    assert shown.out == ""
    assert "schedule=plateau follows validation" in shown.err
    assert "plots/learning_rate.png" in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    shown = gradlab(tmp_path, "show-schedule", "--into", "nowhere/schedule.png")
    assert shown.status == 1
    assert shown.err.startswith("gradlab show-schedule: The figure cannot be written")
    assert shown.err.count("\n") == 1


def test_it_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from gradlab.cli import main; status = main(['show-schedule', 'schedule=cyclic'])\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
