"""Steps that are one compiled function, beside eager ones: the same training up to rounding, and each goes on from the other."""

import contextlib
import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from gradlab import compiled
from gradlab.classifier import Classifier
from gradlab.compiled import CompiledStep, Uncompilable, check_compilable, not_of_tensors_alone
from gradlab.data.module import ImageData
from gradlab.durations import Horizon
from gradlab.learner import Learner
from gradlab.optimizers import OPTIMIZERS
from gradlab.rehearsal import Rehearsal
from processes import train
from tiny import BATCH, EPOCH, From, choice, fit, mlp, normed, splits, weights

STEPS = 12  # the last batches of two epochs have 5 images instead of 8
ADAMW: Any = choice("optimizer", "adamw", lr=0.01)
FEATURES: dict[str, Any] = {
    "clip_norm": 0.9,
    "schedule": choice("schedule", "cosine", warmup="3 steps"),
    "averaging": choice("averaging", "ema"),
    "param_groups": choice("param_groups", "no_decay"),
}


class Compiled(pl.Callback):
    """Compiles the steps of a training."""

    def __init__(self, key: str, compiles: bool = True) -> None:
        self.key = key
        self.compiles = compiles

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        assert isinstance(module, Classifier)
        module.compiled = functools.partial(CompiledStep, key=self.key, batch_size=BATCH, compiles=self.compiles)


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of a compilation but the making of machine code, which takes seconds."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr(compiled, "_functions", compiled._functions.copy())


def state_of(module: Classifier) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, numbers = module.learner.training_state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, numbers


def assert_alike(module: Classifier, other: Classifier, tolerance: float = 1e-12) -> None:
    """The same parameters, optimizer state, averages and books."""
    (tensors, numbers), (others, other_numbers) = state_of(module), state_of(other)
    assert numbers["optimizer"] == other_numbers["optimizer"]
    assert set(tensors) == set(others)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("model", [mlp, normed])
def test_the_step_that_a_gpu_captures_is_the_eager_one_up_to_rounding(model: Callable[[], nn.Module]) -> None:
    eager, _ = fit(model(), ADAMW, STEPS, **FEATURES)
    by_formula, _ = fit(model(), ADAMW, STEPS, callbacks=[Compiled("", compiles=False)], **FEATURES)
    assert_alike(by_formula, eager)


def test_compiled_steps_are_eager_ones_up_to_rounding_and_each_goes_on_from_the_other() -> None:
    eager, rows = fit(mlp(), ADAMW, STEPS, **FEATURES)
    whole, own_rows = fit(mlp(), ADAMW, STEPS, callbacks=[Compiled("mlp")], **FEATURES)
    assert isinstance(whole.learner.compiled, CompiledStep)
    assert_alike(whole, eager)
    for (step, row), (own_step, own) in zip(rows, own_rows, strict=True):
        assert (step, list(row)) == (own_step, list(own))
        for key in row.keys() - {"throughput/images_per_second"}:
            assert own[key] == pytest.approx(row[key], rel=1e-9, abs=1e-12)

    # Stopped after seven steps and gone on with: compiled in the same bits, and the one from the other.
    function = whole.learner.compiled._function
    for first, then in (([Compiled("mlp")],) * 2, ([], [Compiled("mlp")]), ([Compiled("mlp")], [])):
        half, _ = fit(mlp(), ADAMW, STEPS, stop_at=7, round_steps=1, callbacks=[*first], **FEATURES)
        tensors, numbers = state_of(half)
        rest, _ = fit(
            mlp(1), ADAMW, STEPS, go_on=From(7, tensors, numbers), round_steps=1, callbacks=[*then], **FEATURES
        )
        assert_alike(rest, whole, tolerance=0.0 if first and then else 1e-12)
        if then:
            assert isinstance(rest.learner.compiled, CompiledStep)
            assert rest.learner.compiled._function is function  # nothing is compiled twice


CASES: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "dropout and BatchNorm": (normed, ADAMW, {}),
    "accumulated": (mlp, choice("optimizer", "nesterov"), {"accumulate": 3, "clip_value": 0.05}),
    "whole tensors": (mlp, choice("optimizer", "muon"), {"wrapper": choice("wrapper", "lookahead")}),
    "class weights": (mlp, choice("optimizer", "nadam"), {"class_weights": torch.tensor([0.2, 1.0, 3.0]).double()}),
}
RARE = ("whole tensors", "class weights")


@pytest.mark.usefixtures("without_code")
@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in RARE)) for case in CASES])
def test_every_feature_of_a_step_is_that_of_the_eager_one(case: str) -> None:
    make, optimizer, features = CASES[case]
    eager, _ = fit(make(), optimizer, STEPS, **features)
    own, _ = fit(make(), optimizer, STEPS, callbacks=[Compiled(case)], **features)
    assert_alike(own, eager)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(set(OPTIMIZERS) - {"timm"}))
@pytest.mark.parametrize("make", [mlp, normed])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_hundred_compiled_steps_of_every_optimizer(make: Any, optimizer: str, dtype: torch.dtype) -> None:
    config = choice("optimizer", optimizer)
    eager, _ = fit(make().to(dtype), config, 100)
    own, _ = fit(make().to(dtype), config, 100, callbacks=[Compiled(f"{make.__name__} {optimizer} {dtype}")])
    assert_alike(own, eager, 1e-9 if dtype == torch.float64 else 1e-3)


# ------------------------------------------------------------------------------------------ what cannot be compiled


class Branching(nn.Module):
    """Asks for a number on the way."""

    compilable = True

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits if float(logits.detach().sum()) > 0 else 2 * logits


class Idle(nn.Module):
    """Has a parameter that nothing depends on, which torch's optimizers leave alone."""

    compilable = True

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


class Unknown(torch.optim.SGD):
    """An optimizer that no rule follows."""


class UsersOwn:
    name, lr = "users_own", 0.1

    def build(self, params: Any) -> torch.optim.Optimizer:
        return Unknown(params, lr=self.lr)


def rehearsal(model: nn.Module, optimizer: Any, **features: Any) -> Rehearsal:
    data = ImageData(
        splits(), batch_size=BATCH, seeds=[0], horizon=Horizon(STEPS, EPOCH), round_steps=EPOCH, dtype=torch.float64
    )
    data.place(torch.device("cpu"))
    usual = {"loss": choice("loss", "cross_entropy"), "schedule": choice("schedule", "constant", warmup="0")}
    journal: Any = None  # of a training that is only rehearsed, nothing is written
    learner = Learner(
        model, optimizer=optimizer, horizon=Horizon(STEPS, EPOCH), journal=journal, log_steps=1, **(usual | features)
    )
    return Rehearsal(learner, data, "rehearsed", BATCH, torch.empty(0, dtype=torch.float64), contextlib.nullcontext)


@pytest.mark.usefixtures("without_code")
@pytest.mark.parametrize(
    ("make", "optimizer", "features", "said"),
    [
        (mlp, ADAMW, {"wrapper": choice("wrapper", "sam")}, "wrapper=sam makes two passes"),
        (mlp, UsersOwn(), {}, "there is no formula of the optimizer Unknown"),
        (Branching, ADAMW, {}, "torch.compile does not take this network ("),
        (Idle, ADAMW, {}, "there are parameters of the network that get no gradient"),
    ],
)
def test_what_cannot_be_compiled_is_said(make: Any, optimizer: Any, features: Any, said: str) -> None:
    tried = rehearsal(make(), optimizer, **features).compiled()
    assert isinstance(tried, str)
    assert tried.startswith(said)


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing is remembered there
    monkeypatch.setattr(compiled, "_functions", compiled._functions.copy())
    tried = rehearsal(mlp(), choice("optimizer", "sgd")).compiled()
    assert isinstance(tried, str)
    assert tried.startswith("torch.compile does not take this network (")


@pytest.mark.usefixtures("without_code")
def test_a_rehearsal_leaves_the_run_as_it_was() -> None:
    model = normed()
    before, state = weights(model), torch.get_rng_state()
    tried = rehearsal(model, ADAMW)
    made = tried.compiled()
    assert isinstance(made, tuple)
    assert min(made) > 0
    seconds = tried.eager()
    assert isinstance(seconds, float)
    assert seconds > 0
    assert torch.equal(weights(model), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_a_resumed_run_keeps_the_steps_of_its_checkpoint(tmp_path: Path) -> None:
    """The checkpoint before the last is gone on with, by a command that asks for no steps in particular."""
    short = [
        "trainer.max_epochs=null",
        "trainer.max_steps=60",
        "trainer.checkpoint_every=20 steps",
        "trainer.speed=max",
    ]
    whole = train(tmp_path, *short, "plots=false", "tracking=none", "trainer=cpu")
    assert whole.status == 0, whole.err
    assert "\ncompiled steps\n" in whole.out
    assert whole.result["speed"] == "compiled"
    shutil.rmtree(whole.run / "checkpoints" / "last")
    (whole.run / "checkpoints" / "last.previous").rename(whole.run / "checkpoints" / "last")
    (whole.run / "result.json").unlink()
    again = train(tmp_path, "resume=latest", "trainer.speed=auto")
    assert again.status == 0, again.err
    assert re.search(r"^goes on with .* at step [1-5]\d?$", again.out, re.MULTILINE)
    assert "\ncompiled steps\n" in again.out
    assert again.result["parameters_sha256"] == whole.result["parameters_sha256"]


class Counting(nn.Module):
    """A user's own network, whose answers depend on how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.asked = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        answers: torch.Tensor = self.inner(images)
        return answers / self.asked


class Vouched(Counting):
    compilable = True


def test_a_network_whose_python_may_do_more_than_compute_is_not_compiled(without_code: None) -> None:
    for network, found in ((Counting(), "Counting may do more"), (Vouched(), None)):
        learner = fit(network, ADAMW, 1)[0].learner
        told = not_of_tensors_alone(learner)
        assert told is None if found is None else told is not None and found in told
        if found:
            with pytest.raises(Uncompilable, match=found):
                check_compilable(learner)
