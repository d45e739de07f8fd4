"""Populations whose step is one compiled function, beside eager ones: the same training up to rounding."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from gradlab import compiled
from test_population import CNN, MLP, VIT, assert_same, members, train

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of a compilation but the making of machine code, which takes seconds."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tensors of the steps that are compiled."""
    made: list[int] = []
    compile_ = compiled.traced_and_compiled

    def noted(step: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        made.append(len(tensors))
        return compile_(step, tensors)

    monkeypatch.setattr(compiled, "traced_and_compiled", noted)
    return made


@pytest.mark.parametrize(
    "feature",
    [
        [*MLP, "optimizer=sgd", "averaging=ema", "averaging.decay=0.8"],
        [*CNN, "augment=[mixup]", "loss.label_smoothing=0.1", "optimizer=muon"],
        [*CNN, "trainer.clip_norm=0.5", "data.class_weights=balanced", "trainer.accumulate=3"],
        [*VIT, "param_groups=no_decay", "optimizer.weight_decay=0.1"],
    ],
    ids=" ".join,
)
def test_it_is_the_eager_one_up_to_rounding(
    compose: Compose, tmp_path: Path, compilations: list[int], feature: list[str]
) -> None:
    """With batches of each member's own, whose last one is short: that step is eager."""
    own = members(*feature, "trainer.precision=fp64", steps=50)
    eager = train(compose, tmp_path / "eager", own, True)
    assert compilations == []
    whole = train(compose, tmp_path / "whole", [[*each, "trainer.speed=max"] for each in own], True)
    assert len(compilations) == 1
    for one, other in zip(whole, eager, strict=True):
        assert_same(one, other, 1e-9)
        assert (one.result["speed"], other.result["speed"]) == ("compiled", "eager")


def test_once_a_member_has_left_steps_are_eager(compose: Compose, tmp_path: Path, compilations: list[int]) -> None:
    own = [
        [*MLP, "optimizer=sgd", "trainer.max_steps=60", "trainer.precision=fp64", f"optimizer.lr={rate}", "trainer.speed=max"]
        for rate in (0.1, 1e300, 0.2)
    ]  # fmt: skip
    together, alone = (train(compose, tmp_path / str(way), [*own], way) for way in (True, False))
    assert [member.result["status"] for member in together] == ["finished", "diverged", "finished"]
    for member, run in ((together[0], alone[0]), (together[2], alone[2])):
        for name, tensor in run.tensors.items():
            if not name.startswith("random."):
                torch.testing.assert_close(member.tensors[name], tensor, rtol=0, atol=1e-9)
    assert together[0].result["speed"] == "eager"


def test_what_cannot_be_compiled_is_made_as_it_is_and_said(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(step: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr(compiled, "traced_and_compiled", fails)
    own = members(*MLP, "trainer.precision=fp64", steps=10)
    whole = train(compose, tmp_path / "whole", [[*each, "trainer.speed=max"] for each in own], True)
    said = "eager steps: torch.compile does not take this network (RuntimeError: there is no compiler)"
    assert said in capsys.readouterr().out
    for one, other in zip(whole, train(compose, tmp_path / "eager", own, True), strict=True):
        assert_same(one, other, 1e-9)
        assert one.result["speed"] == "eager"
    assert "eager steps" not in capsys.readouterr().out
