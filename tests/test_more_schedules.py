"""The schedules beyond constant, cosine and step: tables computed by hand, and torch's where it has the same."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from gradlab.durations import Horizon
from gradlab.errors import FieldError
from test_schedules import RUN, schedule

ROOT_HALF = math.sqrt(0.5)

# name, numbers, then the factor at each step, of a run of 100 steps in 10 epochs
TABLES: list[tuple[str, dict[str, Any], dict[int, float]]] = [
    ("linear", {"final": 0.0}, {0: 1.0, 25: 0.75, 50: 0.5, 99: 0.01}),
    ("linear", {"final": 0.2}, {0: 1.0, 25: 0.8, 50: 0.6, 75: 0.4}),
    ("linear", {"final": 0.0, "warmup": "20 steps"}, {0: 0.05, 9: 0.5, 20: 1.0, 60: 0.5, 80: 0.25}),
    ("polynomial", {"power": 2.0, "final": 0.0}, {0: 1.0, 10: 0.81, 50: 0.25, 90: 0.01}),
    ("polynomial", {"power": 0.5, "final": 0.5}, {0: 1.0, 75: 0.75, 99: 0.55}),
    ("polynomial", {"power": 2.0, "final": 0.0, "warmup": "2 epochs"}, {4: 0.25, 20: 1.0, 60: 0.25}),
    ("exponential", {"gamma": 0.25, "per": "20 steps"}, {0: 1.0, 10: 0.5, 20: 0.25, 40: 0.0625, 50: 0.03125}),
    ("exponential", {"gamma": 0.5, "per": "1 epochs"}, {5: ROOT_HALF, 10: 0.5, 30: 0.125}),
    ("exponential", {"gamma": 0.5, "per": "10%", "warmup": "10%"}, {9: 1.0, 10: 1.0, 20: 0.5, 40: 0.125}),
    ("inverse_time", {"k": 1.0, "per": "10 steps"}, {0: 1.0, 10: 0.5, 30: 0.25, 90: 0.1}),
    ("inverse_time", {"k": 0.5, "per": "1 epochs"}, {0: 1.0, 20: 0.5, 60: 0.25}),
    ("inverse_time", {"k": 3.0, "per": "10%", "warmup": "10 steps"}, {4: 0.5, 10: 1.0, 20: 0.25, 40: 0.1}),
    ("inverse_sqrt", {"timescale": "10 steps"}, {0: 1.0, 10: ROOT_HALF, 30: 0.5, 80: 1 / 3}),
    ("inverse_sqrt", {"timescale": "1 epochs"}, {0: 1.0, 30: 0.5}),
    # √(warmup/step), the Transformer's
    ("inverse_sqrt", {"timescale": "20%", "warmup": "20%"}, {9: 0.5, 20: 1.0, 40: ROOT_HALF, 80: 0.5}),
    ("multi_step", {"milestones": ["50%", "75%"]}, {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
    (
        "multi_step",
        {"milestones": ["3 epochs", "60 steps", "90%"], "gamma": 0.5},
        {29: 1.0, 30: 0.5, 60: 0.25, 90: 0.125},
    ),
    ("multi_step", {"milestones": ["99 steps"]}, {98: 1.0, 99: 0.1}),
    # The places are those of the run, whatever its warm-up.
    ("multi_step", {"milestones": ["30 steps"], "warmup": "20 steps"}, {9: 0.5, 20: 1.0, 29: 1.0, 30: 0.1}),
    ("multi_step", {"milestones": ["20 steps"], "warmup": "20 steps"}, {}),
    (
        "cosine_restarts",
        {"first": "20 steps", "multiplier": 1.0},
        {0: 1.0, 10: 0.5, 20: 1.0, 30: 0.5, 80: 1.0, 90: 0.5},
    ),
    # Periods of 10, 20, 40 and 80 steps
    ("cosine_restarts", {"first": "1 epochs"}, {0: 1.0, 5: 0.5, 10: 1.0, 20: 0.5, 30: 1.0, 50: 0.5, 70: 1.0}),
    ("cosine_restarts", {"first": "1 epochs"}, {90: (1 + ROOT_HALF) / 2}),
    (
        "cosine_restarts",
        {"first": "10 steps", "multiplier": 1.5, "final": 0.2},
        {5: 0.6, 10: 1.0, 25: 1.0},
    ),
    # 47 is half a step before the end of the third period, of 22.5 steps.
    (
        "cosine_restarts",
        {"first": "1 epochs", "multiplier": 1.5, "final": 0.2},
        {47: 0.6 - 0.4 * math.cos(math.pi / 45)},
    ),
    ("cosine_restarts", {"first": "40%", "multiplier": 1.0, "warmup": "20%"}, {9: 0.5, 20: 1.0, 40: 0.5, 60: 1.0}),
    # Up over 30 steps, of which the last has the factor 1; down over the 70 that follow.
    ("one_cycle", {"start": 0.2, "final": 0.0, "rise": "31 steps"}, {0: 0.2, 15: 0.6, 30: 1.0, 99: 0.0}),
    ("one_cycle", {"start": 0.2, "final": 0.1, "rise": "19 steps"}, {0: 0.2, 9: 0.6, 18: 1.0, 45: 0.775, 99: 0.1}),
    ("one_cycle", {"start": 0.2, "final": 0.0, "rise": "1 steps"}, {0: 1.0, 99: 0.0}),
    # A warm-up leads to the start.
    (
        "one_cycle",
        {"start": 0.2, "rise": "31 steps", "warmup": "10 steps"},
        {4: 0.1, 9: 0.2, 10: 0.2, 25: 0.6, 40: 1.0},
    ),
    ("trapezoid", {"decay": "20 steps"}, {0: 1.0, 79: 1.0, 80: 1.0, 85: 0.75, 90: 0.5, 99: 0.05}),
    ("trapezoid", {"decay": "50%", "final": 0.5, "warmup": "2 epochs"}, {9: 0.5, 20: 1.0, 50: 1.0, 75: 0.75, 90: 0.6}),
    ("trapezoid", {"decay": "80 steps", "warmup": "20 steps"}, {19: 1.0, 20: 1.0, 60: 0.5}),
    ("cyclic", {"rise": "10 steps", "low": 0.0}, {0: 0.0, 5: 0.5, 10: 1.0, 15: 0.5, 20: 0.0, 30: 1.0, 99: 0.1}),
    ("cyclic", {"rise": "2 epochs", "low": 0.2}, {0: 0.2, 10: 0.6, 20: 1.0, 30: 0.6, 40: 0.2, 60: 1.0}),
    ("cyclic", {"rise": "10%", "low": 0.2, "warmup": "10 steps"}, {4: 0.1, 9: 0.2, 10: 0.2, 20: 1.0, 30: 0.2}),
]


@pytest.mark.parametrize(("name", "numbers", "table"), TABLES)
def test_the_factor_is_the_one_computed_by_hand(name: str, numbers: dict[str, Any], table: dict[int, float]) -> None:
    chosen = schedule(name, **{"warmup": "0", **numbers})
    if table:
        chosen.check(RUN)
    for step, expected in table.items():
        assert chosen.factor(step, RUN) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("total", [99, 100, 101, 460, 820, 5000])
def test_restarts_in_percent_end_with_the_run(total: int) -> None:
    """Rounded to steps, a period too short would leave steps at the whole learning rate at the very end."""
    horizon = Horizon(total, 41)
    four = schedule("cosine_restarts", first="25%", multiplier=1.0)
    for chosen in (schedule("cosine_restarts"), four):
        assert chosen.factor(total - 1, horizon) < 0.02
    restarts = [step for step in range(1, total) if four.factor(step, horizon) > four.factor(step - 1, horizon)]
    assert restarts == [math.ceil(total * quarter / 4) for quarter in (1, 2, 3)]


BASE = 0.3
TORCH: dict[str, tuple[dict[str, Any], Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]]] = {
    "linear": ({"final": 0.1}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=100)),
    "polynomial": ({"power": 0.9, "final": 0.0}, lambda o: lr_scheduler.PolynomialLR(o, 100, power=0.9)),
    "exponential": ({"gamma": 0.9, "per": "1 steps"}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "multi_step": (
        {"milestones": ["30 steps", "80%"], "gamma": 0.3},
        lambda o: lr_scheduler.MultiStepLR(o, [30, 80], gamma=0.3),
    ),
    "cosine_restarts": (
        {"first": "7 steps", "multiplier": 2.0, "final": 0.1},
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, T_mult=2, eta_min=0.1 * BASE),
    ),
    "one_cycle": (
        {},  # the file's numbers are torch's own defaults
        lambda o: lr_scheduler.OneCycleLR(o, BASE, total_steps=100, cycle_momentum=False),
    ),
    "cyclic": (
        {"rise": "9 steps", "low": 0.2},
        lambda o: lr_scheduler.CyclicLR(o, 0.2 * BASE, BASE, step_size_up=9, cycle_momentum=False),
    ),
    "inverse_time": (
        {"k": 0.3, "per": "7 steps"},
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + 0.3 * step / 7)),
    ),
    "inverse_sqrt": (
        {"timescale": "7 steps"},
        lambda o: lr_scheduler.LambdaLR(o, lambda step: (7 / (7 + step)) ** 0.5),
    ),
    "trapezoid": (
        {"decay": "30 steps", "final": 0.1},
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.ConstantLR(o, 1.0), lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=30)],
            milestones=[70],
        ),
    ),
}


@pytest.mark.parametrize("name", list(TORCH))
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step.*:UserWarning")  # inside SequentialLR
def test_a_schedule_is_torchs(name: str) -> None:
    numbers, make = TORCH[name]
    chosen = schedule(name, **{"warmup": "0", **numbers})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    reference = make(optimizer)
    for step in range(RUN.total_steps):
        expected = optimizer.param_groups[0]["lr"]
        assert BASE * chosen.factor(step, RUN) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        optimizer.step()
        if step < RUN.total_steps - 1:
            reference.step()


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("linear", {"final": 1.1}, "final"),
        ("polynomial", {"power": 0.0}, "power"),
        ("polynomial", {"final": -0.1}, "final"),
        ("exponential", {"gamma": 1.0}, "gamma"),
        ("exponential", {"per": "0"}, "per"),
        ("exponential", {"per": "10"}, "per"),
        ("inverse_time", {"k": 0.0}, "k"),
        ("inverse_time", {"per": "0 steps"}, "per"),
        ("inverse_sqrt", {"timescale": "0"}, "timescale"),
        ("multi_step", {"milestones": []}, "milestones"),
        ("multi_step", {"milestones": ["0", "10%"]}, "milestones"),
        ("multi_step", {"milestones": ["50%", "100%"]}, "milestones"),
        ("multi_step", {"milestones": ["10", "20"]}, "milestones"),
        ("multi_step", {"gamma": 0.0}, "gamma"),
        ("cosine_restarts", {"first": "0"}, "first"),
        ("cosine_restarts", {"multiplier": 0.5}, "multiplier"),
        ("cosine_restarts", {"final": 2.0}, "final"),
        ("one_cycle", {"rise": "0"}, "rise"),
        ("one_cycle", {"start": 0.0}, "start"),
        ("one_cycle", {"final": -1.0}, "final"),
        ("trapezoid", {"decay": "0"}, "decay"),
        ("trapezoid", {"final": math.nan}, "final"),
        ("cyclic", {"rise": "0%"}, "rise"),
        ("cyclic", {"low": 1.0}, "low"),
        ("cyclic", {"warmup": "3"}, "warmup"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        schedule(name, **changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("multi_step", {"milestones": ["30 steps", "11 epochs"]}, "11 epochs .110 steps., which never comes"),
        ("multi_step", {"milestones": ["100 steps"]}, "100 steps .100 steps., which never comes"),
        ("multi_step", {"milestones": ["60%", "3 epochs"]}, r"must rise, and they are at the steps \[60, 30\]"),
        ("multi_step", {"milestones": ["19 steps"], "warmup": "20%"}, "the warm-up takes 20 steps"),
        ("cosine_restarts", {"first": "100%"}, "no room for a restart .without one it is schedule=cosine"),
        ("one_cycle", {"rise": "80 steps", "warmup": "2 epochs"}, "no room for the way down: the run has 80 steps"),
        ("trapezoid", {"decay": "81 steps", "warmup": "20%"}, "longer than the 80 steps after the warm-up"),
        ("cyclic", {"rise": "10 epochs"}, "no room for its peak"),
    ],
)
def test_a_length_that_does_not_fit_the_run_is_refused(name: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(FieldError, match=says):
        schedule(name, **changes).check(RUN)
