"""A population that is killed and gone on with ends in the bits of one that never was; and what of it has left is not made again."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from omegaconf import DictConfig

from gradlab.checkpoints import load_checkpoint
from gradlab.config import Config, build_config
from gradlab.interruption import Interruption
from gradlab.lightning import pl
from gradlab.record import Place
from gradlab.resume.beginning import Resumption
from gradlab.resume.together import align
from gradlab.run import Outcome, run_together
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import metric_rows, records
from processes import ROOT, environment, train

Compose = Callable[..., DictConfig]
SHARED = (
    "model=cnn", "model.channels=[4,8]", "model.dropout=0.3", "augment=[translate]", "averaging=ema", "averaging.decay=0.8",
    "trainer=cpu", "trainer.threads=1", "trainer.max_epochs=null", "trainer.max_steps=40", "trainer.validate_every=10 steps",
    "trainer.checkpoint_every=8 steps", "trainer.log_every=1 steps", "tracking=none", "plots=false",
)  # fmt: skip


class Ended(BaseException):
    """As SIGKILL: nothing of the run is told of it."""


class Fatal(pl.Callback):
    """Ends the training at the first chunk's end after ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if max(learner.ledger.steps_done for learner in module.learners) > self.step:
            raise Ended


def configs(
    compose: Compose, folder: Path, *more: str, rates: tuple[str, ...] = ("0.01", "0.05", "0.002")
) -> list[Config]:
    own = [[f"optimizer.lr={rate}", f"seed={place % 2}"] for place, rate in enumerate(rates)]
    return [build_config(compose(*SHARED, *more, f"output_dir={folder}", *each)) for each in own]


def places(folder: Path, members: int, report: pl.Callback, interruption: Interruption | None = None) -> list[Place]:
    folders = [folder / f"member{k}" for k in range(members)]
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    together = tuple(str(k) for k in range(members))
    one = interruption or Interruption()
    return [
        Place(RunFolder(each), "parent", name, one, lambda data: data.load(), report, together)
        for each, name in zip(folders, together, strict=True)
    ]


def ends(outcomes: list[Outcome]) -> list[Any]:
    """All of each run that must not depend on whether it was killed."""
    found = []
    for outcome in outcomes:
        tensors, state = load_checkpoint(outcome.folder / "checkpoints" / "last")
        best, _ = load_checkpoint(outcome.folder / "checkpoints" / "best")
        rows = [
            (step, {name: value for name, value in row.items() if not name.startswith("throughput")})
            for step, row in metric_rows(outcome.folder / "journal.jsonl")
        ]
        metrics = json.loads((outcome.folder / "result.json").read_text())["metrics"]
        found.append(
            (
                {**tensors, **{f"best of all.{name}": own for name, own in best.items()}},
                rows,
                metrics,
                state["best_step"],
            )
        )
    return found


def assert_equal(ours: list[Any], theirs: list[Any], rounding: float = 0) -> None:
    """Tensors to the bit; what is told of losses within ``rounding``, relative: a population sums them in another order."""
    for (tensors, *told), (others, *expected) in zip(ours, theirs, strict=True):
        assert tensors.keys() == others.keys()
        for name, tensor in others.items():
            assert torch.equal(tensors[name], tensor), name
        assert [step for step, _ in told[0]] == [step for step, _ in expected[0]]
        for (_, row), (_, same) in zip(told[0], expected[0], strict=True):
            assert row == pytest.approx(same, rel=rounding, abs=0)
        assert told[1] == pytest.approx(expected[1], rel=rounding, abs=0)
        assert told[2] == expected[2]


def test_a_population_that_is_killed_goes_on_in_the_same_bits(compose: Compose, tmp_path: Path) -> None:
    """Killed at step 16 or later while the members write their checkpoints: one of them has only the one before."""
    whole = run_together(configs(compose, tmp_path), ["train.py"], places(tmp_path / "whole", 3, pl.Callback()))
    killed = places(tmp_path / "killed", 3, Fatal(17))
    members = configs(compose, tmp_path)
    with pytest.raises(Ended):
        run_together(members, ["train.py"], killed)
    folders = [place.folder for place in killed]
    steps = [load_checkpoint(folder.checkpoints / "last")[1]["step"] for folder in folders]
    assert len(set(steps)) == 1
    assert steps[0] >= 8
    (folders[0].checkpoints / "last").rename(tmp_path / "never_written")
    assert align(folders) == 0 if steps[0] == 8 else align(folders) < steps[0]
    resumptions = [Resumption(folder, False, config, config) for folder, config in zip(folders, members, strict=True)]
    on = run_together(members, ["train.py"], places(tmp_path / "killed", 3, pl.Callback()), resumptions)
    assert [outcome.status for outcome in on] == ["finished"] * 3
    assert_equal(ends(on), ends(whole))


class GivesUp(pl.Callback):
    """As a sweep that gives a member up after ``step``."""

    def __init__(self, interruption: Interruption, step: int) -> None:
        self.interruption = interruption
        self.step = step
        self.now = 0

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.now = max(learner.ledger.steps_done for learner in module.learners)
        if self.now >= self.step:
            self.interruption.pruned.setdefault("1", "others do better")


def test_who_diverges_or_is_given_up_leaves_at_once_and_changes_no_bit_of_the_others(
    compose: Compose, tmp_path: Path
) -> None:
    rates = ("0.01", "0.05", "1e30", "0.002")
    apart = configs(compose, tmp_path, "optimizer=sgd", rates=rates)
    alone = [run_together([apart[k]], ["train.py"])[0] for k in (0, 3)]
    interruption = Interruption()
    report = GivesUp(interruption, 12)
    told: dict[str, tuple[str, int]] = {}

    def settling(name: str) -> Callable[[Outcome], None]:
        return lambda outcome: told.update({name: (outcome.status, report.now)})

    seats = [
        dataclasses.replace(place, settled=settling(place.point))
        for place in places(tmp_path / "population", len(rates), report, interruption)
    ]
    found = run_together(apart, ["train.py"], seats)
    assert [outcome.status for outcome in found] == ["finished", "pruned", "diverged", "finished"]
    assert_equal(ends([found[0], found[3]]), ends(alone), 2e-6)
    # Their ends were told while others trained on, and are whole.
    assert {name: status for name, (status, _) in told.items()} == {"1": "pruned", "2": "diverged"}
    assert all(step < 40 for _, step in told.values())
    result = json.loads((found[1].folder / "result.json").read_text())
    assert (result["reason"], "test/accuracy" in result["metrics"]) == ("others do better", False)
    kept = load_checkpoint(found[1].folder / "checkpoints" / "last")[1]
    assert kept["step"] == result["steps"] < 40
    for outcome in found:
        kinds = [record["kind"] for record, _ in records(outcome.folder / "journal.jsonl")]
        assert kinds.count("end") == 1
        assert kinds[-1] == "end"


def test_a_sweep_of_populations_that_is_killed_goes_on_with_them(compose: Compose, tmp_path: Path) -> None:
    """By SIGKILL while a population trains: each run keeps its folder and its MLflow run, and has the bits of the run alone."""
    shared = [
        "model.hidden=[16]",
        "trainer.max_epochs=null",
        "trainer.max_steps=1500",
        "trainer.threads=1",
        "trainer=cpu",
    ]
    rates = ("0.001", "0.01", "0.1")
    arguments = [
        *(*shared, "-m", f"optimizer.lr={','.join(rates)}", "trainer.checkpoint_every=50 steps"),
        *("hydra.launcher.population=3", "hydra.launcher.workers=1"),
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while len(list(tmp_path.glob("outputs/*/runs/*/checkpoints/last"))) < len(rates) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("outputs/*/runs/*/result.json"))
    runs = sorted(tmp_path.glob("outputs/*/runs/*"))
    on = train(tmp_path, *arguments, "resume=true")
    assert on.status == 0, on.out + on.err
    assert "0 of 3 points are done, and 3 go on from their checkpoints" in on.out
    assert sorted(tmp_path.glob("outputs/*/runs/*")) == runs
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = {}
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert result["population"] == 3
        rate = float(yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"])
        found[rate] = result["parameters_sha256"], result["metrics"]["test/accuracy"]
        kinds = [record["kind"] for record, _ in records(run / "journal.jsonl")]
        assert (kinds.count("run"), kinds.count("resumed"), kinds.count("end")) == (1, 1, 1)
        stored = client.get_run(json.loads((run / "mlflow.json").read_text())["run_id"])
        assert stored.info.status == "FINISHED"
        rows = [step for step, row in metric_rows(run / "journal.jsonl") if "train/loss" in row]
        assert [metric.step for metric in client.get_metric_history(stored.info.run_id, "train/loss")] == rows
    own = [*shared, "tracking=none", "plots=false", f"output_dir={tmp_path}/alone"]
    for given in rates:
        (alone,) = run_together([build_config(compose(*own, f"optimizer.lr={given}"))], ["train.py"])
        result = json.loads((alone.folder / "result.json").read_text())
        assert found[float(given)] == (result["parameters_sha256"], result["metrics"]["test/accuracy"])
