"""``gradlab compare``, as a real process and over a real MLflow store."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlab.analysis.metric import DEFAULT, Metric
from gradlab.analysis.sources import find_runs, search_mlflow
from gradlab.analysis.verdict import judge
from gradlab.errors import ConfigError
from gradlab.tracking.sync import sync_runs
from handmade import write_run, write_sweep
from processes import environment, gradlab

POINTS = [
    {"optimizer": optimizer, "lr": lr, "seed": seed, "val": val + 0.01 * seed, "test": val}
    for optimizer, lr, val in (("adam", 0.01, 0.9), ("adam", 0.1, 0.6), ("sgd", 0.01, 0.3))
    for seed in (0, 1, 2)
] + [{"optimizer": "sgd", "lr": 0.1, "seed": seed, "status": "diverged"} for seed in (0, 1, 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a sweep, a newer sweep, and a run alone."""
    write_run(tmp_path / "outputs" / "alone", optimizer="momentum", lr=0.5, val=0.7)
    write_sweep(tmp_path / "outputs" / "old", POINTS[:3], name="old")
    os.utime(tmp_path / "outputs" / "old" / "sweep.json", (1, 1))
    write_sweep(tmp_path / "outputs" / "new", POINTS, name="new")
    return tmp_path


def test_the_latest_sweep_is_shown_as_a_table_with_the_verdict(folder: Path) -> None:
    shown = gradlab(folder, "compare")
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].split() == ["new"]
    assert lines[1].split() == [
        "optimizer",
        "lr",
        "validation",
        "accuracy",
        "±",
        "std",
        "n",
        "lost",
        "test",
        "accuracy",
        "seconds",
        "p",
        "verdict",
    ]
    assert lines[2].split() == ["adam", "0.01", "91.00%", "2.48%", "1.00%", "3", "90.00%", "2", "–", "best"]
    assert lines[5].split() == ["sgd", "0.1", "–", "–", "–", "0", "3", "of", "3", "diverged", "–", "–", "–", "diverged"]
    assert lines[7].startswith("adam lr=0.01 is best: a mean validation accuracy of 91.00% ± 2.48%")
    assert lines[9].startswith("Next: ")


def test_runs_and_sweeps_are_compared_together(folder: Path) -> None:
    shown = gradlab(folder, "compare", "outputs/new", "outputs/alone", "--format", "csv")
    assert shown.status == 0, shown.err
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert [(row["optimizer.name"], row["optimizer.lr"], row["n"], row["verdict"]) for row in rows] == [
        ("adam", "0.01", "3", "highest"),
        ("momentum", "0.5", "1", "one seed"),
        ("adam", "0.1", "3", "ruled out"),
        ("sgd", "0.01", "3", "ruled out"),
        ("sgd", "0.1", "0", "diverged"),
    ]
    assert float(rows[0][f"{DEFAULT} mean"]) == pytest.approx(0.91)
    assert rows[-1][f"{DEFAULT} mean"] == ""  # no accuracy, least of all 0


def test_without_a_sweep_all_runs_are_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "outputs" / f"a{seed}", optimizer="adam", seed=seed, val=0.9)
        write_run(tmp_path / "outputs" / f"b{seed}", optimizer="sgd", seed=seed, val=0.8 + 0.01 * seed)
    source = find_runs([], tmp_path / "outputs")
    assert (source.title, source.status, len(source.runs)) == ("4 runs", None, 4)


def test_a_folder_of_sweeps_holds_each_run_once(folder: Path) -> None:
    source = find_runs([folder / "outputs", folder / "outputs" / "alone"], folder)
    assert len(source.runs) == 3 + len(POINTS) + 1
    (adam,) = [s for s in judge(source, Metric(DEFAULT)).grouped.settings if s.name == "adam lr=0.01"]
    assert (adam.n, adam.repeated) == (3, 3)  # both sweeps have these seeds


def test_markdown_and_html(folder: Path) -> None:
    shown = gradlab(folder, "compare", "--format", "markdown")
    assert shown.status == 0, shown.err
    assert shown.out.splitlines()[2] == "| adam | 0.01 | 91.00% | 2.48% | 1.00% | 3 |  | 90.00% | 2 | – | best |"
    shown = gradlab(folder, "compare", "outputs/new", "--format", "html", "--into", "page.html")
    assert (shown.status, shown.out) == (0, "written to page.html\n"), shown.err
    text = (folder / "page.html").read_text()
    assert text.count("data:image/png;base64,") >= 5
    assert 'href="outputs/new/run_000/"' in text
    assert sorted(path.name for path in folder.iterdir()) == ["outputs", "page.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["--output-dir", "nowhere"], "There are no runs in nowhere."),
        (["--metric", "test/accuracy"], "not chosen by the test set"),
        (["--metric", "best/val_acuracy"], "none of these runs has it. They have best/step, best/val_accuracy"),
        (["outputs/new", "--filter", "x"], "not both"),
        (["--filter", "params.seed = '0'"], "no run has been tracked there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gives_one_message_and_leaves_nothing(folder: Path, arguments: list[str], message: str) -> None:
    before = sorted(folder.rglob("*"))
    shown = gradlab(folder, "compare", *arguments)
    assert shown.status == 2, shown.out + shown.err
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert sorted(folder.rglob("*")) == before


def test_a_file_that_cannot_be_written(folder: Path) -> None:
    shown = gradlab(folder, "compare", "--format", "csv", "--into", "nowhere/table.csv")
    assert (shown.status, shown.err.count("\n")) == (1, 1)
    assert "cannot be written" in shown.err


def test_it_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys; from gradlab.cli import main; status = main(['compare'])\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr


def test_mlflow_and_the_folders_say_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{folder / 'store' / 'mlflow.db'}"
    sweep = folder / "outputs" / "new"
    assert sync_runs(sorted(sweep.glob("run_*")), uri) == 0

    source = search_mlflow("", "gradlab", uri)
    by_store, by_folder = judge(source, Metric(DEFAULT)), judge(find_runs([sweep], folder), Metric(DEFAULT))
    assert by_store.verdict.best == by_folder.verdict.best
    assert by_store.grouped.swept == by_folder.grouped.swept
    assert [(s.name, s.by_seed, s.diverged) for s in by_store.grouped.settings] == [
        (s.name, s.by_seed, s.diverged) for s in by_folder.grouped.settings
    ]
    assert all(run.folder and run.mlflow_run_id for run in source.runs)

    adam = search_mlflow("params.`optimizer.name` = 'adam'", "gradlab", uri)
    assert len(adam.runs) == 6
    for expression, experiment, message in (
        ("nonsense", "gradlab", "is not understood"),
        ("", "nope", "there is no experiment 'nope'"),
        ("params.seed = '99'", "gradlab", "no run"),
    ):
        with pytest.raises(ConfigError, match=message):
            search_mlflow(expression, experiment, uri)
