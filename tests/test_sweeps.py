"""What sweeps are made of, without running one."""

import contextlib
import io
import itertools
import json
import math
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from mlflow import MlflowClient
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from gradlab.config import Config, Origin, build_config
from gradlab.entry import for_hydra
from gradlab.errors import ConfigError, GradlabError
from gradlab.optimizers import OPTIMIZERS
from gradlab.sweeps import identity
from gradlab.sweeps.composition import Composer, compose_all
from gradlab.sweeps.grids import expand
from gradlab.sweeps.record import Point, SweepRecord, lock, read, restore
from gradlab.sweeps.resuming import find, resumed
from gradlab.sweeps.seats import Seat, gpus_here, seats
from gradlab.sweeps.settings import launching
from gradlab.sweeps.shipping import Sweep, ship_until_over
from gradlab.sweeps.table import Best, Table
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.journal import Journal
from processes import environment, train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Compose = Callable[..., DictConfig]

# ---------------------------------------------------------------------- grids


def test_a_grid_is_written_out() -> None:
    assert expand("optimizer.lr=logspace(1e-3,1,4)") == "optimizer.lr=0.001,0.01,0.1,1.0"
    assert expand("a=linspace(0, 1, 3)") == "a=0.0,0.5,1.0"
    assert expand("a=7,logspace(1,100,2)") == "a=7,1.0,100.0"
    assert expand("a=choice(linspace(1,2,2),3)") == "a=choice(1.0,2.0,3)"
    for untouched in ("a=range(3)", "name='logspace(1,2,3)'", "a=1", "-m", "name=workspace"):
        assert expand(untouched) == untouched


def test_a_logarithmic_grid_has_equal_ratios_and_both_ends() -> None:
    values = [float(value) for value in expand("a=logspace(1e-4,1,9)").removeprefix("a=").split(",")]
    assert values[0] == 1e-4
    assert values[1] == 0.000316228
    assert values[-1] == 1.0
    for earlier, later in itertools.pairwise(values):
        assert later / earlier == pytest.approx(math.sqrt(10), rel=1e-5)


def test_hydra_reads_every_number_of_a_grid(compose: Compose) -> None:
    parser = OverridesParser.create()
    for text in ("logspace(1e-12,1e12,25)", "linspace(-1e-7,1e-7,5)"):
        (override,) = parser.parse_overrides([expand(f"a={text}")])
        values = [float(value) for value in override.sweep_string_iterator()]
        assert values == [float(value) for value in expand(text.join(["a=", ""])).removeprefix("a=").split(",")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("logspace(0,1,3)", "must be above 0"),
        ("logspace(1,-1,3)", "must be above 0"),
        ("logspace(1,2,1)", "at least 2"),
        ("linspace(1,2,2.5)", "whole number"),
        ("linspace(a,2,3)", "not both numbers"),
        ("linspace(1,2)", "it got 2 arguments"),
        ("linspace(1,inf,3)", "finite"),
    ],
)
def test_a_call_that_makes_no_grid_is_refused(call: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(f"optimizer.lr={call}")


def test_multirun_may_be_asked_for_anywhere() -> None:
    assert for_hydra(["seed=1,2", "-m", "a=linspace(1,2,2)"]) == ["-m", "seed=1,2", "a=1.0,2.0"]
    assert for_hydra(["seed=1"]) == ["seed=1"]


# ---------------------------------------------------------------------- composition


@contextlib.contextmanager
def hydra_loader(*overrides: str) -> Iterator[tuple[Any, DictConfig]]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        initialized = GlobalHydra.instance().hydra
        assert initialized is not None
        loader = initialized.config_loader
        yield loader, loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)


@pytest.mark.parametrize(
    "points",
    [
        [["optimizer=adam", "optimizer.lr=0.1", "seed=1"], ["optimizer=sgd", "optimizer.lr=1e-3", "seed=2"]],
        [["model.hidden=[3,4]", "optimizer.betas=[0.5,0.6]"], ["model.hidden=[5]", "optimizer.betas=[0.5,0.7]"]],
        [["experiment=mnist_lenet", "trainer.max_epochs=3", "name='a b'"], ["seed=3", "name=null"]],
        [["optimizer={name:adam,lr:3}", "optimizer.lr=4"], ["+optimizer.mine=3", "optimizer.lr=5"]],
        [["seed=${trainer.max_epochs}", "trainer.max_epochs=7"], ["schedule=step", "schedule.every='30 %'"]],
        [["~schedule", "seed=1"], ["name=${hydra:job.name}", "seed=1"]],
    ],
)
def test_points_that_share_a_composition_are_what_hydra_makes_of_each(points: list[list[str]]) -> None:
    with hydra_loader() as (loader, master):
        composer = Composer(loader, master)
        for overrides in [*points, *reversed(points)]:
            composed, choices = composer.compose(overrides)
            plain, plain_choices = Composer(loader, master).plain(overrides)
            assert OmegaConf.to_container(composed, resolve=True) == OmegaConf.to_container(plain, resolve=True)
            assert choices == plain_choices


def test_a_mistake_is_hydras_own_whichever_way_it_is_composed() -> None:
    with hydra_loader() as (loader, master):
        said = []
        for compose_one in (Composer(loader, master).compose, Composer(loader, master).plain):
            with pytest.raises(Exception, match=r"Could not override 'optimizer\.lrr'") as caught:
                compose_one(["optimizer=sgd", "optimizer.lrr=3"])
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_all_impossible_points_are_listed() -> None:
    points = [["optimizer.lr=0.1"], ["optimizer.lr=-1"], ["optimizer=adamm", "optimizer.lr=1"], ["seed=-3"]]
    with hydra_loader() as (loader, master), pytest.raises(ConfigError) as caught:
        compose_all(loader, master, points, str)
    message = str(caught.value)
    assert message.startswith("3 of the sweep's 4 points are impossible, so none is run:")
    for line in ("    optimizer.lr=-1", "    optimizer=adamm optimizer.lr=1", "    seed=-3"):
        assert line in message.splitlines()


def test_impossible_points_leave_nothing_behind(tmp_path: Path) -> None:
    finished = train(tmp_path, "optimizer=sgd,adam", "optimizer.lr=linspace(0,1,3)", "-m")
    assert finished.status == 2
    assert "2 of the sweep's 6 points are impossible" in finished.err
    assert "optimizer=adam optimizer.lr=0.0" in finished.err
    assert finished.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("experiment", "settings"), [("lr_sweep", 27), ("optimizers", len(OPTIMIZERS) - 3)])
def test_an_experiment_can_be_a_whole_sweep(tmp_path: Path, experiment: str, settings: int) -> None:
    """Without -m; half of its points are made impossible, so that none is run."""
    finished = train(tmp_path, f"experiment={experiment}", "seed=0,-1")
    assert finished.status == 2
    assert f"{settings} of the sweep's {2 * settings} points are impossible" in finished.err


# ---------------------------------------------------------------------- identity


def config(compose: Compose, *overrides: str) -> Config:
    return build_config(compose(*overrides), Origin(overrides))


def identity_of(compose: Compose, *overrides: str) -> str:
    return identity.identity(identity.values_of(config(compose, *overrides)))


@pytest.mark.parametrize(
    "override", ["name=mine", "output_dir=elsewhere", "plots=false", "tracking=none", "trainer.checkpoint_every=0 minutes", "resume=true"]
)  # fmt: skip
def test_what_changes_no_result_changes_no_identity(compose: Compose, override: str) -> None:
    assert identity_of(compose, override) == identity_of(compose)


@pytest.mark.parametrize(
    "override",
    ["seed=1", "optimizer.lr=0.5", "optimizer=sgd", "model.hidden=[64]", "trainer.max_epochs=7", "trainer.threads=1",
     "trainer.validate_every=2 epochs", "trainer.log_every=1%", "data.split_seed=1", "trainer=cpu"],
)  # fmt: skip
def test_what_may_change_a_result_changes_the_identity(compose: Compose, override: str) -> None:
    assert identity_of(compose, override) != identity_of(compose)


def test_equal_numbers_are_one_point_however_they_are_written(compose: Compose) -> None:
    assert identity_of(compose, "optimizer.lr=1") == identity_of(compose, "optimizer.lr=1.0")
    assert identity_of(compose, "optimizer.lr=1e-3") == identity_of(compose, "optimizer.lr=0.001")


def named(compose: Compose, *points: tuple[str, ...]) -> tuple[list[str], list[str]]:
    values = [identity.values_of(config(compose, *point)) for point in points]
    swept = identity.swept_keys(values, [])
    return swept, identity.names(values, swept)


def test_points_are_named_by_what_distinguishes_them(compose: Compose) -> None:
    swept, names = named(
        compose,
        ("seed=1", "optimizer=adam", "optimizer.lr=0.0031623"),
        ("seed=2", "optimizer=adam", "optimizer.lr=0.01"),
        ("seed=1", "optimizer=sgd", "optimizer.lr=1e-5"),
    )
    assert swept == ["optimizer.name", "optimizer.lr", "seed"]  # not betas, which follow from the choice
    assert names == ["adam lr=3.2e-3 seed=1", "adam lr=0.01 seed=2", "sgd lr=1e-5 seed=1"]
    assert [identity.setting(name) for name in names] == ["adam lr=3.2e-3", "adam lr=0.01", "sgd lr=1e-5"]


def test_a_number_that_only_follows_from_a_choice_is_not_swept(compose: Compose) -> None:
    swept, names = named(compose, ("optimizer=adam",), ("optimizer=sgd",))
    assert (swept, names) == (["optimizer.name"], ["adam", "sgd"])


def test_names_have_the_digits_that_keep_them_apart(compose: Compose) -> None:
    assert named(compose, ("optimizer.lr=0.001001",), ("optimizer.lr=0.001002",))[1] == ["lr=1.001e-3", "lr=1.002e-3"]
    assert named(compose, ("model.hidden=[8,8]",), ("model.hidden=[9]",))[1] == ["hidden=[8,8]", "hidden=[9]"]
    _, names = named(
        compose,
        ("optimizer.weight_decay=0", "schedule.warmup=3 steps"),
        ("optimizer.weight_decay=0.1", "schedule.warmup=3 steps"),
    )
    assert names == ["weight_decay=0", "weight_decay=0.1"]


# ---------------------------------------------------------------------- seats

GIB = 1 << 30


LAUNCHER: dict[str, Any] = {
    key: value
    for key, value in yaml.safe_load((CONFIGS / "hydra/launcher/gradlab.yaml").read_text()).items()
    if key != "_target_"
}
"""The settings as they are delivered."""


def test_a_cpu_has_a_worker_for_each_core_that_memory_carries(compose: Compose) -> None:
    points = [config(compose)]
    automatic = launching(LAUNCHER)
    assert seats(automatic, points, 4, 64 * GIB, []) == [Seat(1, "")] * 4
    assert seats(automatic, points, 4, 2 * GIB, []) == [Seat(1, "")] * 2
    assert seats(automatic, points, 4, 0, []) == [Seat(1, "")]
    threads = [replace(points[0], trainer=replace(points[0].trainer, threads=2))]
    assert seats(automatic, threads, 5, 64 * GIB, []) == [Seat(2, "")] * 2
    assert seats(replace(automatic, workers=2), points, 5, 64 * GIB, []) == [Seat(2, "")] * 2
    with pytest.raises(ConfigError, match="needs 8 cores"):
        seats(replace(automatic, workers=4), threads, 5, 64 * GIB, [])


def test_every_gpu_has_its_workers_and_each_is_told_its_device(compose: Compose) -> None:
    settings = launching({**LAUNCHER, "runs_per_gpu": 2})
    found = seats(settings, [config(compose)], 16, 64 * GIB, ["0", "3"])
    assert found == [Seat(4, "0"), Seat(4, "3"), Seat(4, "0"), Seat(4, "3")]
    assert found[1].environment() == {"GRADLAB_CORES": "4", "OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "3"}
    assert seats(settings, [config(compose, "trainer=cpu")], 2, 64 * GIB, ["0", "3"]) == [Seat(1, "")] * 2


def test_gpus_are_those_of_the_environment_else_those_of_the_machine(tmp_path: Path) -> None:
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "2, GPU-8a"}, tmp_path) == ["2", "GPU-8a"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus_here({}, tmp_path) == ["0", "2", "10"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"runs_per_gpu": None}, "runs_per_gpu"),
        ({"works": 1}, "works"),
        ({"early_stopping": "ahsa"}, "early_stopping must be one of .*Did you mean 'asha'"),
        ({"reduction_factor": 1}, "reduction_factor must be above 1"),
        ({"first_rung": "3"}, "first_rung has no unit"),
        ({"first_rung": "0"}, "first_rung must be above 0"),
        ({"judged_by": 0}, "judged_by must be at least 1"),
    ],
)
def test_wrong_launcher_settings_are_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launching({**LAUNCHER, **change})


# ---------------------------------------------------------------------- record and resuming


def sweep(output_dir: Path, names: str) -> SweepRecord:
    points = [Point(name * 8, name, [f"name={name}"], None) for name in names]
    record = SweepRecord.new(output_dir, names, ["train.py"], ["name"], points)
    record.write()
    return record


def ran(folder: SweepFolder, point: str, status: str | None) -> RunFolder:
    run = RunFolder.create(folder.runs, point)
    journal = Journal(run.journal)
    journal.write("run", id=point, point=point * 8)
    journal.close()
    if status is not None:
        run.write_result({"status": status, "reason": None, "metrics": {}})
    return run


def test_points_are_what_the_folders_of_their_runs_say(tmp_path: Path) -> None:
    record = sweep(tmp_path, "abcdef")
    ran(record.folder, "a", "finished")
    ran(record.folder, "b", "failed")
    last = ran(record.folder, "b", "diverged")
    ran(record.folder, "c", None)
    ran(record.folder, "d", "failed")
    (record.folder.runs / "e").mkdir()  # died before its first line
    record.points[4].status = "running"
    restore(record.points, record.folder)
    assert [point.status for point in record.points] == [
        "finished",
        "diverged",
        "killed",
        "failed",
        "waiting",
        "waiting",
    ]
    assert [point.tries for point in record.points] == [1, 2, 1, 1, 0, 0]
    assert record.points[1].folder == f"runs/{last.path.name}"


def test_the_latest_sweep_of_the_same_points_is_resumed(tmp_path: Path, compose: Compose) -> None:
    first, _same, larger, other = (sweep(tmp_path, names) for names in ("ab", "ab", "abc", "xy"))
    ids = {name: name * 8 for name in "abcxyz"}

    def found(names: str) -> str | None:
        earlier = find(tmp_path, {ids[name] for name in names})
        return None if earlier is None else earlier.folder.path.name

    assert found("ab") == _same.folder.path.name != first.folder.path.name
    assert found("ac") == larger.folder.path.name  # some of its points
    assert found("xyz") == other.folder.path.name  # gone on with, and more
    assert found("ax") is None  # neither: another sweep
    (tmp_path / "2020_sweep_damaged").mkdir()
    (tmp_path / "2020_sweep_damaged" / "sweep.json").write_text("{")
    assert found("z") is None


def test_a_resumed_sweep_has_what_is_done_and_waits_for_the_rest(tmp_path: Path, compose: Compose) -> None:
    record = sweep(tmp_path, "abc")
    ran(record.folder, "a", "finished")
    ran(record.folder, "b", "failed")
    earlier = find(tmp_path, {"aaaaaaaa", "bbbbbbbb", "dddddddd"} | {"cccccccc"})
    assert earlier is not None
    asked = [Point(name * 8, name, [], config(compose)) for name in "abd"]
    again = resumed(earlier, ["seed"], asked, keep_pruned=True)
    assert [(point.name, point.status, point.tries) for point in again.points] == [
        ("a", "finished", 1), ("b", "waiting", 1), ("c", "waiting", 0), ("d", "waiting", 0),
    ]  # fmt: skip
    assert (again.id, again.command) == (record.id, record.command)
    ran(record.folder, "d", "pruned")
    for keep_pruned, status in ((True, "pruned"), (False, "waiting")):
        again = resumed(earlier, ["seed"], asked, keep_pruned)
        assert {point.name: point.status for point in again.points}["d"] == status
    assert again.swept == ["name", "seed"]


def test_sweep_json_holds_what_it_promises(tmp_path: Path) -> None:
    record = sweep(tmp_path, "ab")
    content = json.loads(record.folder.record.read_text())
    assert set(content) == {"version", "id", "name", "command", "created", "status", "swept", "points", "parent_run_id"}
    assert set(content["points"][0]) == {"id", "name", "overrides", "status", "folder", "tries", "reason"}
    assert read(record.folder) == content


def test_a_sweep_that_runs_is_not_resumed_and_one_whose_process_died_is(tmp_path: Path) -> None:
    folder = sweep(tmp_path, "a").folder
    held = lock(folder)
    with pytest.raises(GradlabError, match=f"still running \\(process {os.getpid()}\\)"):
        lock(folder)
    # A child that outlives its sweep keeps the lock, until it is gone.
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held.fileno(),), env=environment()
    )
    held.close()
    folder.lock.write_text("999999999\n")  # no such process
    with pytest.raises(GradlabError, match="still running"):
        lock(folder, patience=0.3)
    child.communicate()
    lock(folder).close()


# ---------------------------------------------------------------------- shipping

WRITER = """
import sys
from pathlib import Path
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal
name = sys.argv[2]
run = RunFolder.create(Path(sys.argv[1]) / "runs", name)
run.config.write_text("a: 1")
journal = Journal(run.journal)
journal.write("run", id=name, name=name, experiment="gradlab", params={"n": name}, tags={}, parent="sweep", point=name)
for step in range(200):
    journal.metrics(step, {"train/loss": step / 7})
journal.artifact(run.config)
if name != "writer 3":
    journal.write("end", status="FINISHED")
"""


def test_eight_writers_at_once_lose_no_row(tmp_path: Path) -> None:
    """Shipped while they write, in one process; one of them dies before its end, and the sweep itself does, too."""
    folder = SweepFolder.create(tmp_path, "sweep_x")
    folder.runs.mkdir()
    journal = Journal(folder.journal)
    journal.write("run", id="sweep", name="x", experiment="gradlab", params={}, tags={})
    journal.close()
    uri, sweep = f"sqlite:///{tmp_path}/mlflow.db", Sweep()
    hears, says = os.pipe()
    threading.Thread(target=sweep.listen, args=(hears,), daemon=True).start()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(folder.path), f"writer {number}"], env=environment())
        for number in range(8)
    ]
    told: list[int] = []
    shipping = threading.Thread(target=lambda: told.append(ship_until_over(folder, uri, sweep)))
    shipping.start()
    assert [writer.wait(timeout=900) for writer in writers] == [0] * 8
    os.write(says, b".")
    assert not sweep.over.is_set()
    os.close(says)
    shipping.join(timeout=900)
    os.close(hears)
    assert told == [0]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("gradlab")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("x")
    assert len(runs) == 8
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == ("KILLED" if name == "writer 3" else "FINISHED")
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(metric.step, metric.value) for metric in history] == [(step, step / 7) for step in range(200)]
    assert parent.info.status == "KILLED"
    # Resumed: it runs again, and then ends as it should.
    journal = Journal(folder.journal)
    journal.write("resumed")
    journal.write("end", status="FINISHED")
    journal.close()
    assert ship_until_over(folder, uri, sweep) == 0
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    assert len(client.search_runs([experiment.experiment_id])) == 9


# ---------------------------------------------------------------------- the table


def test_the_table_says_where_the_sweep_stands(tmp_path: Path) -> None:
    record = sweep(tmp_path, "abcdef")
    for point, status in zip(
        record.points, ["waiting", "running", "finished", "finished", "diverged", "failed"], strict=True
    ):
        point.status, point.name = status, f"adam lr={'0.1' if point.name in 'cd' else '1'} seed={point.name}"
    console = Console(file=io.StringIO(), width=40)
    table = Table(console, record, {"adam lr=1 seed=7": 0.25})
    table.settled(record.points[2], {"best/val_accuracy": 0.5})
    table.settled(record.points[3], {"best/val_accuracy": 0.75})
    table.settled(record.points[4], {"best/val_accuracy": 0.99})  # it diverged: never the best
    assert table.best_accuracy == 0.625
    assert table.line() == (
        "3/6 done  1 running  1 waiting  1 diverged  1 failed  best so far adam lr=0.1: val 62.50%, mean of 2"
    )
    record.points[5].reason = "[red]why[/red]"
    table.settled(record.points[5], {})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "adam lr=1 seed=f: failed: [red]why[/red]\n"


def test_the_best_setting_is_that_of_all_means_counted_anew() -> None:
    best, draw = Best(), random.Random(0)
    plain: dict[str, list[float]] = {}
    assert best.found() is None
    for _ in range(300):
        name, value = f"lr={draw.randrange(9)}", draw.random()
        best.add(name, value)
        plain.setdefault(name, []).append(value)
        means = {setting: sum(values) / len(values) for setting, values in plain.items()}
        found, highest = best.found(), max(means, key=means.__getitem__)
        assert found is not None
        assert (found.setting, found.seeds) == (highest, len(plain[highest]))
        assert found.mean == pytest.approx(means[highest])
