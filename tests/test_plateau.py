"""The schedule that watches validation, beside torch's ReduceLROnPlateau on the same metrics."""

import json
import random
from typing import Any

import pytest
import torch

from gradlab.durations import Horizon
from gradlab.errors import FieldError
from gradlab.schedules.plateau import PlateauWatch
from tiny import choice, fit, mlp

RUN = Horizon(1000, 10)


def factors(schedule: Any, metrics: list[float], every: int = 10) -> list[float]:
    """The factor after each validation, ``every`` steps apart."""
    watch = PlateauWatch(schedule, RUN)
    found = []
    for number, value in enumerate(metrics, start=1):
        watch.see(number * every, {f"val/{schedule.watch}": value})
        found.append(watch.factor)
    return found


def torchs(schedule: Any, metrics: list[float], patience: int, cooldown: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="min" if schedule.watch == "loss" else "max",
        factor=schedule.gamma,
        patience=patience,
        threshold=schedule.threshold,
        cooldown=cooldown,
        min_lr=schedule.min_factor,
        eps=0,
    )
    found = []
    for value in metrics:
        reference.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("watch", ["loss", "accuracy"])
@pytest.mark.parametrize(
    ("patience", "cooldown", "numbers"),
    [
        (3, 0, {}),
        (0, 0, {"gamma": 0.9}),
        (1, 4, {"gamma": 0.5}),
        (2, 1, {"gamma": 0.5, "threshold": 0.1}),
        (1, 0, {"gamma": 0.5, "min_factor": 0.2, "threshold": 0.0}),
    ],
)
def test_it_is_torchs(seed: int, watch: str, patience: int, cooldown: int, numbers: dict[str, Any]) -> None:
    schedule = choice(
        "schedule", "plateau", watch=watch, patience=f"{patience} validations", cooldown=f"{cooldown} validations", **numbers
    )  # fmt: skip
    draws = random.Random(seed)
    metrics = [draws.uniform(0.5, 1) + 0.5 * 0.95**n for n in range(60)]
    found = factors(schedule, metrics)
    assert found == pytest.approx(torchs(schedule, metrics, patience, cooldown), rel=1e-12)
    assert found[-1] < 1


@pytest.mark.parametrize("lengths", [("50 steps", "20 steps"), ("5 epochs", "2 epochs"), ("5%", "2%")])
def test_lengths_of_the_run_count_as_the_validations_in_them(lengths: tuple[str, str]) -> None:
    draws = random.Random(0)
    metrics = [draws.random() for _ in range(60)]
    in_validations = choice("schedule", "plateau", patience="5 validations", cooldown="2 validations", gamma=0.5)
    in_run = choice("schedule", "plateau", patience=lengths[0], cooldown=lengths[1], gamma=0.5)
    assert factors(in_run, metrics) == factors(in_validations, metrics)


def test_warming_up_is_not_watched() -> None:
    schedule = choice("schedule", "plateau", warmup="30 steps", patience="1 validations", gamma=0.5)
    # The low losses at 10, 20 and 30 are not seen: 5 at step 40 is the first.
    assert factors(schedule, [1, 1, 1, 5, 4, 4, 4]) == [1, 1, 1, 1, 1, 1, 0.5]
    assert [schedule.factor(step, RUN) for step in (0, 14, 29, 30, 999)] == [1 / 30, 0.5, 1, 1, 1]


def test_a_step_is_seen_once() -> None:
    watch = PlateauWatch(choice("schedule", "plateau", patience="0 validations"), RUN)
    for _ in range(3):
        watch.see(10, {"val/loss": 1.0})
    assert watch.factor == 1


@pytest.mark.parametrize("cooldown", ["0", "3 validations", "25 steps"])
def test_a_saved_state_goes_on_as_if_nothing_had_been(cooldown: str) -> None:
    schedule = choice("schedule", "plateau", patience="2 validations", cooldown=cooldown, gamma=0.5)
    draws = random.Random(1)
    metrics = [draws.random() for _ in range(40)]
    whole = factors(schedule, metrics)
    for stop in (1, 7, 20):
        first, second = PlateauWatch(schedule, RUN), PlateauWatch(schedule, RUN)
        for number in range(stop):
            first.see(10 * (number + 1), {"val/loss": metrics[number]})
        second.load(json.loads(json.dumps(first.state())))
        found = []
        for number in range(stop, 40):
            second.see(10 * (number + 1), {"val/loss": metrics[number]})
            found.append(second.factor)
        assert found == whole[stop:]


def test_a_run_reports_the_rate_that_its_steps_had() -> None:
    """A rate so high that validation gets worse soon: the journal's rates are those that torch makes of its losses."""
    schedule = choice("schedule", "plateau", patience="1 validations", gamma=0.5, warmup="3 steps")
    module, rows = fit(mlp(), choice("optimizer", "momentum", lr=0.9), 60, schedule=schedule, round_steps=5)
    losses = [row["val/loss"] for _, row in rows if "val/loss" in row]
    drops = [1.0, *torchs(schedule, losses, 1, 0)]
    rates = [row["lr"] for _, row in rows if "lr" in row]
    expected = [0.9 * min(1.0, (step + 1) / 3) * drops[step // 5] for step in range(60)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[-1] < 0.9
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert optimizer.param_groups[0]["lr"] == rates[-1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"watch": "train"}, "watch"),
        ({"gamma": 1.0}, "gamma"),
        ({"patience": "5"}, "patience"),
        ({"patience": "5 minutes"}, "patience"),
        ({"patience": "1.5 validations"}, "patience"),
        ({"cooldown": "x"}, "cooldown"),
        ({"threshold": -1.0}, "threshold"),
        ({"min_factor": 1.0}, "min_factor"),
        ({"warmup": "5 validations"}, "warmup"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        choice("schedule", "plateau", **changes)
    assert caught.value.field == field
