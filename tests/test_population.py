"""A member of a population is the run that it would be alone: trained both ways, and compared to the bit where that holds."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from gradlab.checkpoints import load_checkpoint
from gradlab.config import build_config
from gradlab.optimizers import OPTIMIZERS
from gradlab.run import run_together
from gradlab.tracking.journal import metric_rows

Compose = Callable[..., DictConfig]
CNN = ["model=cnn", "model.channels=[4,8]", "model.dropout=0.2"]
MLP = ["model=mlp", "model.hidden=[16]"]
VIT = ["model=vit", "model.width=16", "model.heads=2", "model.depth=1", "model.patch=4", "model.dropout=0.1"]
FIXED = ["trainer=cpu", "trainer.threads=1", "trainer.max_epochs=null", "tracking=none", "plots=false"]


@dataclass
class Trained:
    """One run after its end: the tensors of its last checkpoint, its rows, its result."""

    tensors: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    rows: list[tuple[int, dict[str, float]]]
    result: dict[str, Any]


def trained(folder: Path) -> Trained:
    checkpoints = folder / "checkpoints"
    tensors = load_checkpoint(checkpoints / "last")[0] if (checkpoints / "last").exists() else {}
    best = load_checkpoint(checkpoints / "best")[0] if (checkpoints / "best").exists() else {}
    rows = list(metric_rows(folder / "journal.jsonl"))
    return Trained(tensors, best, rows, json.loads((folder / "result.json").read_text()))


def train(compose: Compose, folder: Path, members: list[list[str]], together: bool) -> list[Trained]:
    configs = [build_config(compose(*FIXED, f"output_dir={folder}", *own)) for own in members]
    if together:
        outcomes = run_together(configs, ["train.py"])
    else:
        outcomes = [run_together([config], ["train.py"])[0] for config in configs]
    return [trained(outcome.folder) for outcome in outcomes]


def both(compose: Compose, folder: Path, members: list[list[str]]) -> list[tuple[Trained, Trained]]:
    """Each member, as one of a population and alone."""
    return list(zip(train(compose, folder, members, True), train(compose, folder, members, False), strict=True))


def assert_same(member: Trained, alone: Trained, tolerance: float) -> None:
    """Weights, buffers, optimizer state and every told number; ``tolerance`` relative to a tensor's largest entry, 0 for bits."""
    for ours, theirs in ((member.tensors, alone.tensors), (member.best, alone.best)):
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            if tolerance == 0:
                assert torch.equal(ours[name], tensor), name
            else:
                scale = max(tensor.double().abs().max().item(), 1e-30)
                worst = (ours[name].double() - tensor.double()).abs().max().item() / scale
                assert worst <= tolerance, (name, worst)
    assert [step for step, _ in member.rows] == [step for step, _ in alone.rows]
    for (_, ours_row), (_, row) in zip(member.rows, alone.rows, strict=True):
        assert ours_row.keys() == row.keys()
        for name, value in row.items():
            if not name.startswith("throughput"):
                assert ours_row[name] == pytest.approx(value, rel=max(tolerance, 2e-6), nan_ok=True), name
    assert member.result["status"] == alone.result["status"]


def members(*shared: str, steps: int = 24, rate: float = 3e-3) -> list[list[str]]:
    """Three members with rates of their own, the first and the last with the same seed."""
    return [
        [*shared, f"trainer.max_steps={steps}", f"optimizer.lr={rate * 1.7**place}", f"seed={place % 2}"]
        for place in range(3)
    ]


@pytest.mark.parametrize(
    ("model", "feature", "tolerance"),
    [
        (MLP, [], 0),
        (CNN, [], 0),
        (VIT, [], 0),
        ([*VIT, "model.pool=token"], ["optimizer=adamw"], 0),
        (["model=logistic"], ["optimizer=sgd", "data.batch_size=full"], 0),
        (["model=resnet", "model.depth=20"], ["optimizer=momentum"], 0),
        (CNN, ["trainer.clip_value=0.01"], 0),
        (CNN, ["trainer.clip_norm=0.5", "trainer.precision=fp64"], 1e-9),
        (CNN, ["averaging=ema", "averaging.decay=0.8"], 0),
        (CNN, ["augment=[flip,crop]"], 0),
        (CNN, ["augment=[mixup]", "trainer.precision=fp64"], 1e-9),
        (CNN, ["loss.label_smoothing=0.1", "trainer.precision=fp64"], 1e-9),
        (CNN, ["data.class_weights=balanced", "trainer.precision=fp64"], 1e-9),
        (CNN, ["schedule=plateau", "trainer.validate_every=4 steps", "schedule.patience=1 validations"], 0),
        (CNN, ["trainer.accumulate=3"], 0),
        (CNN, ["param_groups=no_decay", "optimizer.weight_decay=0.1"], 0),
        (CNN, ["init=lsuv"], 0),
    ],
    ids=lambda value: " ".join(value).replace("model=", "") if isinstance(value, list) else "",
)
def test_a_member_is_the_run_alone(
    compose: Compose, tmp_path: Path, model: list[str], feature: list[str], tolerance: float
) -> None:
    for member, alone in both(compose, tmp_path, members(*model, *feature, steps=48 if "ema" in str(feature) else 24)):
        assert_same(member, alone, tolerance)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_every_optimizer_moves_a_member_as_alone(compose: Compose, tmp_path: Path, optimizer: str) -> None:
    schedule = ["schedule=constant"] if optimizer.startswith("schedule_free") else []
    shared = [*MLP, f"optimizer={optimizer}", "trainer.precision=fp64", *schedule]
    for member, alone in both(compose, tmp_path, members(*shared, steps=40)):
        assert_same(member, alone, 1e-9)


def test_members_may_differ_in_every_number_that_is_held_side_by_side(compose: Compose, tmp_path: Path) -> None:
    shared = [*CNN, "optimizer=adamw", "trainer.max_steps=30", "averaging=ema", "trainer.precision=fp64"]
    differing = [
        [*shared, "optimizer.lr=0.01", "optimizer.betas=[0.8,0.99]", "schedule=constant", "init=he", "seed=3"],
        [*shared, "optimizer.weight_decay=0.3", "optimizer.eps=1e-3", "schedule=cosine", "init=xavier", "seed=4"],
        [*shared, "model.dropout=0.5", "averaging.decay=0.7", "loss.label_smoothing=0.2", "schedule.warmup=10%"],
    ]
    found = both(compose, tmp_path, differing)
    for member, alone in found:
        assert_same(member, alone, 1e-9)
    # The comparison can fail: members are far apart.
    assert not torch.allclose(found[0][0].tensors["model.0.weight"], found[1][0].tensors["model.0.weight"], rtol=0.1)


def test_every_member_has_its_own_learning_rate(compose: Compose, tmp_path: Path) -> None:
    """From the first step on, over the batches really used: by one step of plain gradient descent from one start."""
    rates = [0.0, 1.0, 2.0]
    shared = [*MLP, "optimizer=sgd", "schedule=constant", "schedule.warmup=0", "trainer.max_steps=1", "seed=5"]
    found = train(compose, tmp_path, [[*shared, f"optimizer.lr={max(rate, 1e-30)}"] for rate in rates], True)
    start, one, two = (run.tensors["model.1.weight"].double() for run in found)
    moved = one - start
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(two - start, 2 * moved, rtol=1e-4, atol=1e-6)


def test_a_member_that_diverges_leaves_and_changes_no_bit_of_the_others(compose: Compose, tmp_path: Path) -> None:
    shared = [*CNN, "optimizer=sgd", "trainer.max_steps=60", "trainer.validate_every=20 steps"]
    rates = ["0.05", "1e30", "0.1"]
    runs = [[*shared, f"optimizer.lr={rate}", f"seed={place}"] for place, rate in enumerate(rates)]
    found = both(compose, tmp_path, runs)
    assert [member.result["status"] for member, _ in found] == ["finished", "diverged", "finished"]
    for member, alone in (found[0], found[2]):
        assert_same(member, alone, 0)
    member, alone = found[1]
    assert member.result["diverged"] == alone.result["diverged"]
    assert member.result["diverged"]["lr"] > 1e28
    assert "test/accuracy" not in member.result["metrics"]


def test_a_population_that_diverges_as_a_whole_ends(compose: Compose, tmp_path: Path) -> None:
    shared = [*MLP, "optimizer=sgd", "trainer.max_steps=2000"]
    found = train(compose, tmp_path, [[*shared, f"optimizer.lr={rate}"] for rate in ("1e30", "1e32")], True)
    assert [run.result["status"] for run in found] == ["diverged", "diverged"]
    assert all(run.result["steps"] < 100 for run in found)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize(
    "model",
    [MLP, ["model=lenet", "data=mnist"], CNN, ["model=resnet", "model.depth=9"], VIT],
    ids=["mlp", "lenet", "cnn", "resnet-9", "vit"],
)
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_two_hundred_steps(
    compose: Compose, tmp_path: Path, real_mnist: Path, optimizer: str, model: list[str], precision: str
) -> None:
    model = [*model, f"data.root={real_mnist}"] if "data=mnist" in model else model
    schedule = ["schedule=constant"] if optimizer.startswith("schedule_free") else []
    shared = [*model, f"optimizer={optimizer}", f"trainer.precision={precision}", "data.batch_size=16", *schedule]
    for member, alone in both(compose, tmp_path, members(*shared, steps=200, rate=1e-3)):
        assert_same(member, alone, 1e-9 if precision == "fp64" else 1e-3)
