"""Searches: what may be searched, what Optuna is told, and real ones that are killed and go on."""

import contextlib
import json
import math
import pickle
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

optuna = pytest.importorskip("optuna")

from gradlab.errors import ConfigError, GradlabError  # noqa: E402
from gradlab.sweeps.record import Point, SweepRecord  # noqa: E402
from gradlab.sweeps.search import Study  # noqa: E402
from gradlab.sweeps.searching import SAMPLERS, Searching, searching  # noqa: E402
from gradlab.sweeps.space import Dimension, Space, read_space  # noqa: E402
from gradlab.tracking.folder import RunFolder  # noqa: E402
from gradlab.tracking.journal import Journal, records  # noqa: E402
from processes import ROOT, train  # noqa: E402
from test_poison import Canary  # noqa: E402
from test_sweep_runs import FAULTY, IMPORTABLE, results, running, start, sweep_of, wait_until  # noqa: E402
from test_sweeps import hydra_loader  # noqa: E402

NUMBERS = {
    key: value
    for key, value in yaml.safe_load((ROOT / "configs/hydra/sweeper/gradlab_optuna.yaml").read_text()).items()
    if key != "_target_"
}


def space_of(*arguments: str, **params: Any) -> Space:
    with hydra_loader() as (loader, _):
        return read_space(arguments, params, loader)


# ----------------------------------------------------------------------------- spaces


def test_hydras_syntax_is_a_space() -> None:
    space = space_of(
        *(
            "model=mlp",
            "optimizer=sgd,adam",
            "optimizer.lr=tag(log,interval(1e-4,1))",
            "trainer.clip_norm=interval(0.5,2)",
        ),
        *(
            "data.batch_size=range(16,65,16)",
            "model.hidden=choice([32],[64,64])",
            "trainer.accumulate=int(interval(1,4))",
        ),
        *("loss.label_smoothing=range(0,0.3,0.1)", "trainer.max_epochs=tag(log,range(1,17))", "seed=range(3)"),
    )
    assert space.fixed == ("model=mlp",)
    assert space.seeds == ("seed=0", "seed=1", "seed=2")
    by_key = {dimension.key: dimension for dimension in space.dimensions}
    assert by_key["optimizer"].choices == ("sgd", "adam")
    lr = by_key["optimizer.lr"]
    assert (lr.kind, lr.low, lr.high, lr.log, lr.values) == ("float", 1e-4, 1.0, True, None)
    assert by_key["trainer.clip_norm"].values is None
    assert by_key["data.batch_size"].values == [16, 32, 48, 64]
    assert by_key["model.hidden"].choices == ("[32]", "[64,64]")
    assert by_key["trainer.accumulate"].values == [1, 2, 3, 4]
    assert by_key["loss.label_smoothing"].values == [0.0, 0.1, 0.2]
    epochs = by_key["trainer.max_epochs"]
    assert (epochs.kind, epochs.low, epochs.high, epochs.log) == ("int", 1, 16, True)
    assert len(space.probes()) == 2
    values = {key: dimension.ends[0] for key, dimension in by_key.items()}
    assert [point[-1] for point in space.points(values)] == list(space.seeds)
    assert "optimizer.lr=0.0001" in space.points(values)[0]


def test_params_may_be_replaced_and_grids_are_written_out() -> None:
    params = {"optimizer.lr": "logspace(1e-3,1e-1,3)", "seed": "0,1"}
    assert space_of(**params).dimensions[0].choices == ("0.001", "0.01", "0.1")
    replaced = space_of("optimizer.lr=interval(0.1,1)", **params)
    assert [dimension.kind for dimension in replaced.dimensions] == ["float"]
    assert replaced.repetitions == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optimizer.lr=0.1", "nothing to search. Give a key a range"),
        ("seed=interval(0,1)", "seeds are repetitions"),
        ("optimizer.lr=tag(log,interval(0,1))", "both ends must be above 0"),
        ("optimizer.lr=interval(1,0)", "the lower first"),
        ("optimizer.lr=tag(lgo,interval(0.1,1))", "the only tag that a search knows is 'log', not 'lgo'"),
        ("optimizer.lr=tag(log,choice(0.1,1))", "only an interval or a range"),
        ("data.batch_size=tag(log,range(8,64,8))", "has whole numbers and no step"),
        ("data.batch_size=range(8,8)", "the range is empty"),
    ],
)
def test_what_cannot_be_searched_is_said(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(argument)


LR = Dimension("optimizer.lr", "tag(log,interval(1e-4,1))", "float", (), 1e-4, 1, None, True)
DECAY = Dimension("optimizer.weight_decay", "interval(0,0.1)", "float", (), 0, 0.1)
WIDTH = Dimension("model.width", "range(1,5)", "int", (), 1, 4, 1)
OPTIMIZER = Dimension("optimizer", "sgd,adam", "choice", ("sgd", "adam"))


@pytest.mark.parametrize(
    ("change", "dimensions", "message"),
    [
        ({"sampler": "tpo"}, [LR], "sampler must be one of tpe, .*Did you mean 'tpe'"),
        ({"n_trials": 0}, [LR], "n_trials must be at least 1, not 0"),
        ({"batch": 0}, [LR], "batch must be at least 1"),
        ({"trials": 3}, [LR], "hydra.sweeper.trials"),
        ({"objective": "test_accuracy"}, [LR], "objective must be one of val_accuracy, val_loss"),
        ({"options": {"sigma": 1}}, [LR], "options has 'sigma', which sampler=tpe does not take"),
        (
            {"sampler": "grid"},
            [OPTIMIZER, LR],
            r"has no end of them. Write them out, as in optimizer.lr=logspace\(0.0001,1,5\)",
        ),
        ({"sampler": "cmaes"}, [LR], "searches two numbers or more"),
        ({"sampler": "cmaes"}, [LR, OPTIMIZER], "searches numbers, and optimizer=sgd,adam is a list"),
    ],
)
def test_wrong_search_settings_are_said(change: dict[str, Any], dimensions: list[Dimension], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        searching({**NUMBERS, **change}).trials(Space((), tuple(dimensions), ()))


def test_a_grid_has_as_many_trials_as_it_has_values() -> None:
    space = Space((), (OPTIMIZER, WIDTH), ())
    assert searching({**NUMBERS, "sampler": "grid"}).trials(space) == 8
    assert searching({**NUMBERS, "sampler": "grid", "n_trials": 5}).trials(space) == 5
    assert searching(NUMBERS).trials(space) == 30


# ---------------------------------------------------------------------------- studies


OPEN: list[Study] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Studies are closed after each test."""
    yield
    while OPEN:
        OPEN.pop().close()


def study_in(folder: Path, dimensions: Sequence[Dimension], resume: bool = False, **change: Any) -> Study:
    earlier = list(folder.glob("*_sweep_*"))
    record = SweepRecord.new(folder, "rates", ["train.py"], [], []) if not earlier else None
    if record is None:
        from gradlab.tracking.folder import SweepFolder

        record = SweepRecord(SweepFolder(earlier[0]), "id", "rates", [], "", [], [])
    study = Study(record, Space((), tuple(dimensions), ()), settings(**change), resume)
    OPEN.append(study)
    return study


def settings(**change: Any) -> Searching:
    return searching({**NUMBERS, **change})


def came(study: Study, status: str, accuracies: Sequence[float], losses: Sequence[float] = (), seed: int = 0) -> Point:
    """A point whose run is on disk: its validations every ten steps, and how it ended."""
    run = RunFolder.create(study.record.folder.runs, f"{status}_{seed}")
    with contextlib.closing(Journal(run.journal)) as journal:
        for index, accuracy in enumerate(accuracies):
            loss = losses[index] if losses else 1 - accuracy
            journal.metrics(10 * (index + 1), {"val/accuracy": accuracy, "val/loss": loss})
    run.write_result({"status": status, "metrics": {"best/val_accuracy": max(accuracies)} if accuracies else {}})
    return Point("p", "p", [], None, status, str(run.path.relative_to(study.record.folder.path)))


def test_optuna_is_told_what_became_of_a_trial(tmp_path: Path) -> None:
    study = study_in(tmp_path, [LR])
    trials = study.ask(6)
    study.tell(trials[0], [came(study, "finished", [0.5, 0.9, 0.8]), came(study, "finished", [0.6, 0.7], seed=1)])
    study.tell(trials[1], [came(study, "diverged", [0.5]), came(study, "finished", [0.99], seed=1)])
    study.tell(trials[2], [came(study, "pruned", [0.2, 0.4]), came(study, "pruned", [0.3], seed=1)])
    study.tell(trials[3], [came(study, "failed", []), came(study, "finished", [0.99], seed=1)])
    study.tell(trials[4], [came(study, "failed", []), came(study, "pruned", [0.3], seed=1)])
    study.tell(trials[5], [came(study, "killed", []), came(study, "finished", [0.99], seed=1)])
    told = optuna.load_study(study_name="search", storage=f"sqlite:///{study.record.folder.path}/study.db").trials
    assert [(trial.state.name, trial.value, trial.intermediate_values) for trial in told] == [
        ("COMPLETE", pytest.approx(0.8), {}),
        ("PRUNED", None, {}),
        ("PRUNED", 0.25, {10: 0.25}),  # the last step that both were validated at
        ("FAIL", None, {}),
        ("PRUNED", 0.3, {10: 0.3}),
        ("RUNNING", None, {}),
    ]
    assert [point["status"] for point in told[1].user_attrs["gradlab"]] == ["diverged", "finished"]
    assert study.done == 4
    assert study.conclusion()[0] == "search: 1 complete, 3 pruned or diverged, 1 failed, chosen by tpe"


def test_the_loss_may_be_the_objective(tmp_path: Path) -> None:
    study = study_in(tmp_path, [LR], objective="val_loss")
    first, second = study.ask(2)
    study.tell(first, [came(study, "finished", [0.5, 0.9], [0.7, 1.5])])
    study.tell(second, [came(study, "finished", [0.5, 0.9], [math.nan, 0.6])])
    assert study.conclusion()[1].endswith(
        f"number {second.number}, optimizer.lr={second.params['optimizer.lr']:.4g}: validation loss 0.6"
    )


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_searches_in_batches_and_goes_on_as_it_would_have(tmp_path: Path, sampler: str) -> None:
    """And the same again in another study, closed and opened after every batch."""
    dimensions = [WIDTH, OPTIMIZER] if sampler == "grid" else [LR, DECAY] if sampler == "cmaes" else [LR, OPTIMIZER]
    change: dict[str, Any] = {
        "sampler": sampler,
        "options": {"n_startup_trials": 4} if sampler in ("tpe", "cmaes") else None,
    }
    found = []
    for name, reopened in (("whole", False), ("pieces", True)):
        (tmp_path / name).mkdir()
        study = study_in(tmp_path / name, dimensions, **change)
        tried = []
        for batch in range(2 if sampler == "grid" else 4):
            for trial in study.ask(4):
                values = study.values_of(trial)
                number = values["optimizer.lr" if "optimizer.lr" in values else "model.width"]
                quality = 1 / (1 + abs(math.log10(float(number)) + 2))
                if batch == 1 and trial.number % 4 == 0:
                    study.tell(trial, [came(study, "diverged", [])])
                else:
                    study.tell(trial, [came(study, "finished", [quality])])
                tried.append(json.dumps(values))
            if reopened:
                study = study_in(tmp_path / name, dimensions, resume=True, **change)
        found.append(tried)
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0])
    assert study.done == len(found[0])
    for values in map(json.loads, found[0]):
        assert 1e-4 <= values.get("optimizer.lr", 1) <= 1
        assert f"{values.get('optimizer.lr', 1):.4g}" == f"{values.get('optimizer.lr', 1):.9g}"
    if sampler == "grid":
        assert sorted(found[0]) == sorted(
            json.dumps({"model.width": width, "optimizer": name}) for width in (1, 2, 3, 4) for name in ("sgd", "adam")
        )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("options", [{}, {"with_margin": True}, {"use_separable_cma": True}])
def test_cma_es_chooses_as_optuna_s_own_without_its_pickles(options: dict[str, Any]) -> None:
    from gradlab.sweeps.cma import PlainCmaEs

    found, kept = [], []
    for sampler in (optuna.samplers.CmaEsSampler, PlainCmaEs):
        study = optuna.create_study(direction="maximize")
        for batch in range(6):
            study.sampler = sampler(seed=batch, n_startup_trials=2, consider_pruned_trials=True, **options)
            for trial in [study.ask() for _ in range(4)]:
                x, k = trial.suggest_float("x", 1e-4, 1, log=True), trial.suggest_int("k", 1, 9)
                trial.report(-abs(math.log10(x) + 2) - abs(k - 4), 1)
                if trial.number % 7 == 3:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(trial, -abs(math.log10(x) + 2) - abs(k - 4))
        found.append([value for trial in study.trials for value in trial.params.values()])
        kept.append(sum("optimizer" in key for trial in study.trials for key in trial.system_attrs))
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert kept[0] > kept[1] == 0


def test_a_pickle_in_a_study_is_not_loaded(tmp_path: Path) -> None:
    poison = pickle.dumps(Canary(tmp_path / "canary")).hex()
    change: dict[str, Any] = {"sampler": "cmaes", "options": {"n_startup_trials": 2}}
    study = study_in(tmp_path, [LR, DECAY], **change)
    for trial in study.ask(4):
        for prefix in ("cma", "sepcma", "cmawm"):
            trial.storage.set_trial_system_attr(trial._trial_id, f"{prefix}:generation", 1)
            trial.storage.set_trial_system_attr(trial._trial_id, f"{prefix}:optimizer:0", poison)
        study.tell(trial, [came(study, "finished", [0.5])])
    assert len(study_in(tmp_path, [LR, DECAY], resume=True, **change).ask(4)) == 4
    assert not (tmp_path / "canary").exists()


def test_trials_without_an_end_are_known_when_the_study_is_opened_again(tmp_path: Path) -> None:
    """And one that was killed between its choice and its values has the rest chosen."""
    study = study_in(tmp_path, [LR, OPTIMIZER])
    first, second = (study.values_of(trial) for trial in study.ask(2))
    study._study.ask()  # a trial without a value
    study = study_in(tmp_path, [LR, OPTIMIZER], resume=True)
    again = study.unfinished()
    assert [study.values_of(trial) for trial in again[:2]] == [first, second]
    assert len(again) == 3
    assert study.values_of(again[2])["optimizer"] in ("sgd", "adam")
    for trial in again:
        study.tell(trial, [came(study, "failed", [])])
    assert study.done == 0
    # In this process what failed is not tried again; in the next one it is, first of all.
    assert all(study.values_of(trial) not in (first, second) for trial in study.ask(1))
    study = study_in(tmp_path, [LR, OPTIMIZER], resume=True)
    assert [study.values_of(trial) for trial in study.ask(2)] == [first, second]


def test_a_study_that_is_there_is_not_gone_on_with_unasked(tmp_path: Path) -> None:
    storage = str(tmp_path / "mine.db")
    study_in(tmp_path, [LR], storage=storage, study_name="rates").ask(1)
    with pytest.raises(ConfigError, match=r"has a study of this name\. resume=true goes on with it"):
        study_in(tmp_path, [LR], storage=storage, study_name="rates")
    assert len(study_in(tmp_path, [LR], resume=True, storage=storage, study_name="rates").unfinished()) == 1
    (tmp_path / "damaged.db").write_text("no database, whatever its name says " * 100)
    with pytest.raises(GradlabError, match="cannot be opened"):
        study_in(tmp_path, [LR], storage=str(tmp_path / "damaged.db"))


# -------------------------------------------------------------------------- real ones

SEARCH = ["-m", "hydra/sweeper=gradlab_optuna", "tracking=none", "hydra.launcher.workers=1"]


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    for arguments, message in (
        (["optimizer=adam", "optimizer.momentum=interval(0,1)"], "There is no key 'optimizer.momentum'"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr must be above 0"),
        (["optimizer.lr=interval(0.1,1)", "hydra/launcher=basic"], "needs hydra/launcher=gradlab"),
    ):
        finished = train(tmp_path, *SEARCH[:-1], *arguments)
        assert finished.status == 2, finished.out + finished.err
        assert message in finished.err
    plain = train(tmp_path, "-m", "optimizer.lr=interval(0.1,1)")
    assert (plain.status, plain.out) == (2, "")
    assert "Search in it with hydra/sweeper=gradlab_optuna" in plain.err
    assert not (tmp_path / "outputs").exists()


def test_without_optuna_there_is_one_line_with_the_command(tmp_path: Path) -> None:
    """A Python that finds none: of this environment's packages it is the one that is hidden."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfound = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'optuna' else found(name, package)\n"
    )
    finished = train(tmp_path, *SEARCH, "optimizer.lr=interval(0.1,1)", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    assert finished.status == 2
    assert finished.err.count("\n") == 1
    assert "pip install 'gradlab[optuna]'" in finished.err


def params_of(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    (database,) = (folder / "outputs").glob("*_sweep_*/study.db")
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    trials = optuna.load_study(study_name="search", storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    return [(trial.state.name, trial.params) for trial in trials]


@pytest.mark.timeout(600)
def test_a_search_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed in its first batch, stopped in a later one; in the end each point is done once."""
    arguments = [
        "--config-dir", str(FAULTY), *SEARCH, "imports=[faulty]", "model=faulty", "model.how=slow", "optimizer=sgd",
        *("trainer.max_epochs=null", "trainer.max_steps=10", "optimizer.lr=tag(log,interval(1e-3,1))", "seed=range(2)"),
        *("hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2", "hydra.sweeper.options={n_startup_trials: 2}"),
    ]  # fmt: skip
    process = start(tmp_path, *arguments)
    wait_until(lambda: bool(results(tmp_path)) and bool(running(tmp_path)), process)
    process.kill()
    process.communicate(timeout=900)
    process = start(tmp_path, *arguments, "resume=true")
    wait_until(lambda: len(results(tmp_path)) > 4 and bool(running(tmp_path)), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 130, out + err
    assert "of 8 points are done" in out
    assert re.search(r"^[1-7] done, [1-7] left", out, re.MULTILINE), out
    ended = train(tmp_path, *arguments, "resume=true", PYTHONPATH=IMPORTABLE, timeout=900)
    assert ended.status == 0, ended.out + ended.err
    folder, sweep = sweep_of(tmp_path)
    finished = Counter(
        next(records(run.journal))[0]["point"]
        for run in folder.run_folders()
        if run.result.exists() and json.loads(run.result.read_text())["status"] == "finished"
    )
    assert sorted(finished.values()) == [1] * 8
    assert len(sweep["points"]) == 8
    assert sweep["status"] == "finished"
    assert "search: 4 complete, chosen by tpe" in ended.out
    again = train(tmp_path, *arguments, "resume=true", PYTHONPATH=IMPORTABLE, timeout=900)
    assert again.status == 0, again.out + again.err
    assert "8 of 8 points are done" in again.out
    assert len(params_of(tmp_path)) == 4


@pytest.mark.slow
def test_faults_are_told_as_such_and_tried_again(tmp_path: Path) -> None:
    arguments = [
        "--config-dir", str(FAULTY), *SEARCH, "imports=[faulty]", "model=faulty", "optimizer=sgd",
        *("trainer.max_epochs=null", "trainer.max_steps=20", "model.how=raise,diverge,fine", "hydra.sweeper.sampler=grid"),
    ]  # fmt: skip
    finished = train(tmp_path, *arguments, PYTHONPATH=IMPORTABLE, timeout=900)
    assert finished.status == 1, finished.out + finished.err
    states = {params["model.how"]: state for state, params in params_of(tmp_path)}
    assert states == {"raise": "FAIL", "diverge": "PRUNED", "fine": "COMPLETE"}
    assert "2 done, 1 left (1 diverged, 1 failed)" in finished.out
    again = train(tmp_path, *arguments, "resume=true", PYTHONPATH=IMPORTABLE, timeout=900)
    assert again.status == 1, again.out + again.err
    assert Counter(params["model.how"] for _, params in params_of(tmp_path)) == {"raise": 2, "diverge": 1, "fine": 1}
    assert {point["name"]: point["tries"] for point in sweep_of(tmp_path)[1]["points"]} == {
        "how=raise": 2, "how=diverge": 1, "how=fine": 1,
    }  # fmt: skip
