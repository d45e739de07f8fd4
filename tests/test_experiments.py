"""``python -m gradlab.experiments``: the quick form of each, with real processes; and what it says of a record."""

import csv
import dataclasses
import itertools
import json
import re
import time
from pathlib import Path

import pytest

from gradlab.analysis.records import read_run
from gradlab.analysis.sources import Source, read_sweep
from gradlab.analysis.statistics import Estimate, estimate
from gradlab.experiments.__main__ import main
from gradlab.experiments.catalogue import EXPERIMENTS
from gradlab.experiments.deepobs import PUBLISHED, published_runs
from gradlab.experiments.experiment import Finding, Form, Ran
from gradlab.experiments.optimizer_study import follow, refine
from gradlab.experiments.reading import TEST, TRAIN_ACCURACY, VAL, workers_of, written
from gradlab.experiments.record import (
    FIGURE,
    README,
    RERUNS,
    RESULTS,
    VERDICT,
    compared,
    folder_of,
    holds,
    note_rerun,
    recorded,
)
from gradlab.experiments.running import REPOSITORY, How, _note_call, commands_of, merged, wall_seconds
from handmade import write_run, write_sweep

RECORDS = REPOSITORY / "experiments"
ONE_WORKER = (
    "hydra.launcher.workers=1",
    "hydra.launcher.population=off",
    "tracking=none",
)  # no time to measure populations


LONG = ("deepobs", "initialisation", "optimizer-study")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in EXPERIMENTS]
)
def test_the_quick_form_of_each_runs(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = main([name, "--quick", "--output-dir", str(tmp_path), "--with", *ONE_WORKER])
    out, err = capfd.readouterr()
    assert status == 0, out + err
    (results,) = tmp_path.glob("*/results")
    experiment = EXPERIMENTS[name]
    findings = recorded(results)
    assert findings is not None
    assert len({finding.key for finding in findings}) == len(findings) > 0
    for finding in findings:
        assert finding.said in out
        assert "nan" not in finding.said
    assert (results / FIGURE).read_bytes().startswith(b"\x89PNG")
    with (results / RESULTS).open() as lines:
        rows = list(csv.DictReader(lines))
    content = json.loads((results / VERDICT).read_text())
    table = content["table"]
    assert content["seconds"] > 0
    assert content["workers"] == (1 if experiment.own_run is None else None)
    assert len(table) > 1
    assert {len(row) for row in table} == {len(table[0])}
    if experiment.own_run is None:
        assert {row["status"] for row in rows} <= {"finished", "diverged"}
        runs = {path.name for path in tmp_path.glob("*/*_sweep_*/runs/*")}
        assert sorted(row["folder"] for row in rows) == sorted(runs)  # each number stands for a run that is there
    else:
        assert {row["agrees"] for row in rows} == {"true", "false"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_recorded_is_whole_and_its_readme_says_just_that(name: str) -> None:
    experiment = EXPERIMENTS[name]
    folder = folder_of(RECORDS, experiment, experiment.forms[0])
    content = json.loads((folder / VERDICT).read_text())
    readme = (folder / README).read_text()
    for finding in content["findings"]:
        assert finding["said"] in readme
    for row in content["table"]:
        assert f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" in readme
    assert (folder / FIGURE).is_file()
    assert len((folder / RESULTS).read_text().splitlines()) > 2
    linked = [link for link in re.findall(r"\]\(([^)]*)\)", readme) if "://" not in link]
    assert all((folder / link).exists() for link in linked)
    assert f"{Path.home()}/" not in readme + (folder / VERDICT).read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_accuracy_in_a_table_is_that_of_rows_of_its_results(name: str) -> None:
    experiment = EXPERIMENTS[name]
    metrics = {"training accuracy": TRAIN_ACCURACY, "validation": VAL, "test accuracy": TEST}
    for form in experiment.forms:
        folder = folder_of(RECORDS, experiment, form)
        if experiment.own_run is not None or not (folder / VERDICT).is_file():
            continue
        settings: dict[tuple[str, ...], list[dict[str, str]]] = {}
        with (folder / RESULTS).open() as lines:
            for row in csv.DictReader(lines):
                if row["status"] == "finished":
                    swept = tuple(row[key] for key in itertools.takewhile(lambda key: key != "seed", row))
                    settings.setdefault(swept, []).append(row)
        headings, *rows = json.loads((folder / VERDICT).read_text())["table"]
        shown = {heading: metric for heading, metric in metrics.items() if heading in headings}
        traced = {
            (len(found), *(_cell([float(row[metric]) + nudge for row in found], metric) for metric in shown.values()))
            for found in settings.values()
            for nudge in (0, -1e-8, 1e-8)  # a file's eight digits decide no half otherwise
        }
        columns = [headings.index(heading) for heading in shown]
        assert {
            (int(row[headings.index("runs")].split(",")[0]), *(row[column] for column in columns)) for row in rows
        } <= traced


def _cell(values: list[float], metric: str) -> str:
    return written(estimate(values), metric)


def test_each_says_its_question_its_data_and_has_a_form_without_files() -> None:
    for experiment in EXPERIMENTS.values():
        assert "*Data.*" in experiment.text
        assert not experiment.embedded.wants_pictures
        assert any(form.wants_pictures for form in experiment.forms)


# ------------------------------------------------------------------------- the record


def test_an_answer_holds_where_neither_run_rules_out_the_others() -> None:
    sgd = Finding("the best", "sgd", "", ("momentum",))
    momentum = Finding("the best", "momentum", "", ("sgd",))
    sure = Finding("the best", "adam", "")
    assert sgd.agrees_with(momentum)
    assert not sgd.agrees_with(Finding("the best", "momentum", ""))  # the other runs rule sgd out
    assert not sgd.agrees_with(sure)
    for before, now, line, is_held in (
        ([sgd], sgd, "holds      the best: sgd", True),
        ([sgd], momentum, "compatible the best: momentum (was sgd)", True),
        ([sgd], sure, "CHANGED    the best: adam (was sgd)", False),
        ([], sure, "new        the best: adam", True),
    ):
        (answer,) = compared(before, [now])
        assert (answer.line, holds([answer])) == (line, is_held)


def test_what_other_seeds_said_stands_beside_the_record_once(tmp_path: Path) -> None:
    first = compared([Finding("the best", "sgd", "")], [Finding("the best", "adam", "")])
    again = compared([Finding("the best", "sgd", "")], [Finding("the best", "sgd", "")])
    note_rerun(tmp_path, 100, first)
    note_rerun(tmp_path, 50, again)
    note_rerun(tmp_path, 100, again)
    assert (tmp_path / RERUNS).read_text().splitlines() == [
        "seeds from,verdict,answer,value,recorded",
        "50,holds,the best,sgd,sgd",
        "100,holds,the best,sgd,sgd",
    ]


def test_a_later_override_of_one_key_replaces_the_earlier() -> None:
    form = Form("moons", (("experiment=x", "optimizer.lr=1", "seed=range(10)"), ("experiment=y",)), ("seed=0",), 1)
    assert commands_of(form, How(quick=True, more=["tracking=none"])) == [
        ["experiment=x", "optimizer.lr=1", "seed=0", "tracking=none"]
    ]
    assert len(commands_of(form, How())) == 2
    assert merged(["~data.noise", "a=1", "a=2"]) == ["~data.noise", "a=2"]


def test_other_seeds_are_as_many_and_every_command_keeps_its_own() -> None:
    form = Form("moons", (("a=1", "seed=range(5)"), ("a=2", "seed=range(1,6)"), ("a=3", "seed=0"), ("a=4",)), ())
    seeds = ["seed=range(100,105)", "seed=range(101,106)", "seed=range(100,101)", "seed=range(100,103)"]
    assert [command[-1] for command in commands_of(form, How(seeds=100))] == seeds


def test_commands_that_follow_keep_what_they_chose_in_the_quick_and_the_full_size() -> None:
    form = Form("moons", (("a=1",),), ("trainer.max_steps=9", "optimizer.lr=1,2"), full=("a=9", "seed=7"))
    following = [["a=1", "optimizer.lr=2", "seed=range(1,6)"]]
    assert commands_of(form, How(quick=True), following) == [["a=1", *following[0][1:], "trainer.max_steps=9"]]
    assert commands_of(form, How(full=True), following) == [["a=9", *following[0][1:]]]


def test_a_number_is_written_with_its_interval() -> None:
    assert written(Estimate(3, 0.9, 0.01, 0.025, False), "test/accuracy") == "90.00% ± 2.50%"
    assert written(Estimate(1, 0.9, float("nan"), float("nan"), False), "test/accuracy") == "90.00%"
    assert written(None, "test/accuracy") == "–"


def test_the_time_of_an_experiment_is_that_of_the_calls_that_made_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    run = write_run(sweep / "runs" / "0")
    command = ["train.py", "-m", "hydra.launcher.workers=2"]
    source = Source("a sweep", [read_run(run, sweep)], command, "finished", None)
    for seconds, since in ((30, 0), (25, 0), (4, 2 * time.time_ns())):  # killed; gone on with; found all runs made
        _note_call(sweep, seconds, since)
    assert wall_seconds(source) == 55
    assert workers_of(source) == 2
    assert workers_of(dataclasses.replace(source, command=command[:2])) is None


def test_a_rate_that_one_seed_was_lucky_with_is_not_chosen(tmp_path: Path) -> None:
    def sweep(name: str, *points: tuple[float, int, float]) -> Source:
        more = {"schedule.name": "constant"}
        return read_sweep(
            write_sweep(
                tmp_path / name, [{"lr": lr, "seed": seed, "val": val, "more": more} for lr, seed, val in points]
            )
        )

    command = ("experiment=x", "optimizer=adam", "optimizer.lr=logspace(0.01,0.1,3)", "seed=0")
    tuned = sweep("tuned", (0.01, 0, 0.95), (0.03, 0, 0.94), (0.1, 0, 0.96))
    ran = Ran(Form("moons", (command,), ()), [tuned])
    at = ["experiment=x", "optimizer=adam"]
    assert refine(ran) == [
        [*at, "optimizer.lr=0.1", "schedule=constant", "seed=6,7"],
        [*at, "optimizer.lr=0.01", "schedule=constant", "seed=6,7"],
    ]
    again = [sweep("high", (0.1, 6, 0.1), (0.1, 7, 0.97)), sweep("low", (0.01, 6, 0.94), (0.01, 7, 0.95))]
    for refined, rate in (((), "0.1"), (again, "0.01")):
        assert follow(dataclasses.replace(ran, refined=refined), fresh=3) == [
            [*at, f"optimizer.lr={rate}", "schedule=constant", "seed=range(1,4)"]
        ]


def test_published_runs_are_read_with_their_rate() -> None:
    found = published_runs(PUBLISHED, "cifar10_3c3d")
    rate, accuracy = found["momentum"]
    assert (set(found), rate, accuracy.n) == ({"sgd", "momentum", "adam"}, 0.000398107, 5)
    assert 0.83 < accuracy.low < accuracy.mean < accuracy.high < 0.86


# ------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learning-rat"], "Did you mean 'learning-rate'?"),
        (["depth", "--data", "nowhere"], "there is no such folder or archive; depth has digits."),
        (["depth", "--quick", "--record"], "--record keeps the experiment as it is"),
        (["depth", "--data", "digits", "--full"], "depth on digits is as large as it gets"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_list_names_every_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert all(experiment.question in line for experiment, line in zip(EXPERIMENTS.values(), lines, strict=True))
