import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from gradlab.durations import Horizon
from gradlab.errors import FieldError
from gradlab.schedules import SCHEDULES, Constant, Cosine, Step

RUN = Horizon(total_steps=100, steps_per_epoch=10)
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "schedule"


def schedule(name: str, **changes: Any) -> Any:
    """The schedule ``name`` with the numbers of its file, but for ``changes``."""
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(values, dict)
    values["warmup"] = str(values["warmup"])
    return SCHEDULES[name](**{**values, **changes})


@pytest.mark.parametrize(
    ("name", "numbers", "step", "expected"),
    [
        ("constant", {"warmup": "0"}, 0, 1.0),
        ("constant", {"warmup": "0"}, 99, 1.0),
        # A warm-up of w steps: (step + 1)/w, so that its last step has the whole learning rate.
        ("constant", {"warmup": "10 steps"}, 0, 0.1),
        ("constant", {"warmup": "10 steps"}, 4, 0.5),
        ("constant", {"warmup": "10 steps"}, 9, 1.0),
        ("constant", {"warmup": "10 steps"}, 10, 1.0),
        ("constant", {"warmup": "2 epochs"}, 0, 0.05),
        ("constant", {"warmup": "2 epochs"}, 18, 0.95),
        ("constant", {"warmup": "2 epochs"}, 20, 1.0),
        ("constant", {"warmup": "5%"}, 0, 0.2),
        ("constant", {"warmup": "5%"}, 3, 0.8),
        ("constant", {"warmup": "5%"}, 4, 1.0),
        ("constant", {"warmup": "1 step"}, 0, 1.0),
        # (1 + cos πs/100)/2
        ("cosine", {"warmup": "0", "final": 0.0}, 0, 1.0),
        ("cosine", {"warmup": "0", "final": 0.0}, 25, 0.8535533905932737),
        ("cosine", {"warmup": "0", "final": 0.0}, 50, 0.5),
        ("cosine", {"warmup": "0", "final": 0.0}, 75, 0.14644660940672624),
        ("cosine", {"warmup": "0", "final": 0.0}, 99, 0.00024671981713420017),
        ("cosine", {"warmup": "0", "final": 0.2}, 0, 1.0),
        ("cosine", {"warmup": "0", "final": 0.2}, 50, 0.6),
        ("cosine", {"warmup": "0", "final": 1.0}, 50, 1.0),
        # After a warm-up of 20 steps the half cosine runs over the 80 that are left.
        ("cosine", {"warmup": "2 epochs", "final": 0.0}, 9, 0.5),
        ("cosine", {"warmup": "2 epochs", "final": 0.0}, 20, 1.0),
        ("cosine", {"warmup": "20%", "final": 0.0}, 40, 0.8535533905932737),
        ("cosine", {"warmup": "20 steps", "final": 0.0}, 60, 0.5),
        ("step", {"warmup": "0", "every": "30 steps", "gamma": 0.1}, 0, 1.0),
        ("step", {"warmup": "0", "every": "30 steps", "gamma": 0.1}, 29, 1.0),
        ("step", {"warmup": "0", "every": "30 steps", "gamma": 0.1}, 30, 0.1),
        ("step", {"warmup": "0", "every": "3 epochs", "gamma": 0.1}, 59, 0.1),
        ("step", {"warmup": "0", "every": "3 epochs", "gamma": 0.1}, 60, 0.01),
        ("step", {"warmup": "0", "every": "30%", "gamma": 0.1}, 99, 0.001),
        ("step", {"warmup": "0", "every": "30%", "gamma": 0.5}, 90, 0.125),
        # The levels are counted from the end of the warm-up.
        ("step", {"warmup": "10 steps", "every": "30 steps", "gamma": 0.1}, 4, 0.5),
        ("step", {"warmup": "10 steps", "every": "30 steps", "gamma": 0.1}, 39, 1.0),
        ("step", {"warmup": "10 steps", "every": "30 steps", "gamma": 0.1}, 40, 0.1),
    ],
)
def test_the_factor_is_the_one_computed_by_hand(name: str, numbers: dict[str, Any], step: int, expected: float) -> None:
    chosen = schedule(name, **numbers)
    chosen.check(RUN)
    assert chosen.factor(step, RUN) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", ["0", "7 steps", "2 epochs", "15%"])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_factor_is_finite_and_not_negative(name: str, warmup: str) -> None:
    chosen = schedule(name, warmup=warmup)
    for horizon in (RUN, Horizon(2, 1) if warmup == "0" else Horizon(57, 10), Horizon(1000, 7)):
        chosen.check(horizon)
        factors = [chosen.factor(step, horizon) for step in range(horizon.total_steps)]
        assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)
        assert max(factors) == 1


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_factor_depends_on_nothing_but_the_step_and_the_horizon(name: str) -> None:
    chosen = schedule(name, warmup="5%")
    forwards = [chosen.factor(step, RUN) for step in range(RUN.total_steps)]
    order = list(range(RUN.total_steps))
    random.Random(0).shuffle(order)
    shuffled = {step: chosen.factor(step, RUN) for step in order}
    assert [shuffled[step] for step in range(RUN.total_steps)] == forwards
    assert [schedule(name, warmup="5%").factor(step, RUN) for step in range(RUN.total_steps)] == forwards


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_warm_up_rises_in_equal_steps_to_where_the_curve_begins(name: str) -> None:
    """That is the whole learning rate, but for the two that have a rise of their own."""
    chosen = schedule(name, warmup="8 steps")
    begin = {"one_cycle": 0.04, "cyclic": 0.1}.get(name, 1.0)
    assert [chosen.factor(step, RUN) for step in range(8)] == [(step + 1) / 8 * begin for step in range(8)]
    assert chosen.factor(8, RUN) == begin


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"multi_step"}))  # whose places count from the run's start
def test_the_curve_after_a_warm_up_is_that_of_a_shorter_run(name: str) -> None:
    """Lengths given in percent are shares of the whole run, so all are given in steps here."""
    fields = {field.name for field in dataclasses.fields(SCHEDULES[name])}  # type: ignore[arg-type]
    lengths = dict.fromkeys(fields & {"every", "per", "timescale", "first", "rise", "decay"}, "30 steps")
    warmed, cold = schedule(name, warmup="2 epochs", **lengths), schedule(name, warmup="0", **lengths)
    shorter = Horizon(RUN.total_steps - 20, RUN.steps_per_epoch)
    assert [warmed.factor(step + 20, RUN) for step in range(80)] == [cold.factor(step, shorter) for step in range(80)]


def test_constant_is_one_all_along() -> None:
    assert {Constant("constant", "0").factor(step, RUN) for step in range(RUN.total_steps)} == {1.0}


@pytest.mark.parametrize("final", [0.0, 0.1, 0.5])
def test_cosine_is_torchs(final: float) -> None:
    chosen, base = Cosine("cosine", "0", final), 0.3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RUN.total_steps, eta_min=final * base)
    for step in range(RUN.total_steps):
        expected = optimizer.param_groups[0]["lr"]
        assert base * chosen.factor(step, RUN) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        optimizer.step()
        reference.step()


def test_step_is_torchs() -> None:
    chosen, base = Step("step", "0", "7 steps", 0.6), 0.3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, 7, gamma=0.6)
    for step in range(RUN.total_steps):
        assert base * chosen.factor(step, RUN) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(
    ("warmup", "steps"), [("100 steps", 100), ("10 epochs", 100), ("100%", 100), ("20 epochs", 200)]
)
def test_a_warm_up_that_fills_the_run_is_refused(name: str, warmup: str, steps: int) -> None:
    with pytest.raises(FieldError, match=rf"warmup of {warmup} \({steps} steps\) fills the whole run of 100 steps"):
        schedule(name, warmup=warmup).check(RUN)


NEED_ROOM = {"step", "multi_step", "cosine_restarts", "one_cycle", "trapezoid", "cyclic"}  # for what they do after it


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - NEED_ROOM))
def test_a_warm_up_of_all_steps_but_one_is_taken(name: str) -> None:
    schedule(name, warmup="99 steps").check(RUN)


@pytest.mark.parametrize("name", sorted(NEED_ROOM))
def test_a_warm_up_that_leaves_no_room_is_refused(name: str) -> None:
    with pytest.raises(FieldError):
        schedule(name, warmup="99 steps").check(RUN)


@pytest.mark.parametrize(
    ("warmup", "every", "left"), [("0", "100 steps", 100), ("0", "100%", 100), ("8 epochs", "30%", 20)]
)
def test_a_drop_that_never_comes_is_refused(warmup: str, every: str, left: int) -> None:
    with pytest.raises(FieldError, match=f"every of {every} .* never comes: the run has {left} steps") as caught:
        Step("step", warmup, every, 0.1).check(RUN)
    assert caught.value.field == "every"


def test_a_drop_at_the_last_step_is_taken() -> None:
    chosen = Step("step", "0", "99 steps", 0.1)
    chosen.check(RUN)
    assert [chosen.factor(step, RUN) for step in (98, 99)] == [1.0, 0.1]


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("constant", {"warmup": "5"}, "warmup"),
        ("constant", {"warmup": "5 minutes"}, "warmup"),
        ("cosine", {"final": -0.1}, "final"),
        ("cosine", {"final": 1.1}, "final"),
        ("cosine", {"final": math.nan}, "final"),
        ("step", {"every": "0"}, "every"),
        ("step", {"every": "30"}, "every"),
        ("step", {"gamma": 0.0}, "gamma"),
        ("step", {"gamma": 1.0}, "gamma"),
        ("step", {"warmup": "x"}, "warmup"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        schedule(name, **changes)
    assert caught.value.field == field


def test_a_schedule_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant("constant", "0").warmup = "5%"  # type: ignore[misc]
