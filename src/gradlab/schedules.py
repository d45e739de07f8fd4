"""Learning-rate schedules: pure functions of the step, so that training, plots and tests use one thing.

``factor(step, horizon)`` is what the base learning rate is multiplied with at optimizer step ``step`` (0 for the
first). Every schedule begins with a linear warm-up of ``warmup`` (0 for none): step s of w has the factor (s + 1)/w.
After it the schedule's own curve runs over what is left of the run.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from gradlab.bounds import check_number
from gradlab.durations import Horizon, duration_of
from gradlab.errors import FieldError
from gradlab.registry import Registry


class Schedule(Protocol):
    """What every entry of ``SCHEDULES`` has."""

    @property
    def name(self) -> str: ...

    def check(self, horizon: Horizon) -> None:
        """Raise ``FieldError`` where this schedule and the length of the run do not go together."""

    def factor(self, step: int, horizon: Horizon) -> float:
        """The multiplier of the base learning rate at ``step`` in [0, horizon.total_steps); ≥ 0, dimensionless."""


SCHEDULES: Registry[Schedule] = Registry("schedule")


@dataclass(frozen=True)
class WarmedUp:
    """The warm-up that all schedules share; a schedule adds ``curve``.

    warmup: length of the linear warm-up, as ``500 steps``, ``2 epochs``, ``5%`` of the run, or 0.
    """

    name: str
    warmup: str

    def __post_init__(self) -> None:
        duration_of(self, "warmup")

    def check(self, horizon: Horizon) -> None:
        steps = duration_of(self, "warmup").steps(horizon)
        if steps >= horizon.total_steps:
            raise FieldError(
                "warmup", f"of {self.warmup} ({steps} steps) fills the whole run of {horizon.total_steps} steps"
            )

    def factor(self, step: int, horizon: Horizon) -> float:
        warmup = duration_of(self, "warmup").steps(horizon)
        if step < warmup:
            return (step + 1) / warmup
        return self.curve(step - warmup, horizon.total_steps - warmup, horizon)

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        """The factor at ``step`` of the ``span`` steps after the warm-up; ``horizon`` is the whole run's."""
        raise NotImplementedError


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(WarmedUp):
    """The base learning rate all along.

    warmup: see WarmedUp.
    """

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return 1.0


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(WarmedUp):
    """Half a cosine from 1 down to ``final`` (Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983).

    The curve reaches ``final`` one step after the last one, as torch's CosineAnnealingLR does.

    warmup: see WarmedUp.
    final: the factor at the end, in [0, 1].
    """

    final: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "final", at_least=0, at_most=1)

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * step / span))


@SCHEDULES.register("step")
@dataclass(frozen=True)
class Step(WarmedUp):
    """Drops the learning rate to ``gamma`` times what it was after every ``every``.

    warmup: see WarmedUp.
    every: length of one level, as ``30 epochs``, ``2000 steps`` or ``30%``; above 0 and shorter than the run.
    gamma: the factor of one drop, in (0, 1).
    """

    every: str
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if duration_of(self, "every").number == 0:
            raise FieldError("every", "must be above 0: a step schedule without steps is schedule=constant")
        check_number(self, "gamma", above=0, below=1)

    def check(self, horizon: Horizon) -> None:
        super().check(horizon)
        every = duration_of(self, "every").steps(horizon)
        left = horizon.total_steps - duration_of(self, "warmup").steps(horizon)
        if every >= left:
            raise FieldError(
                "every",
                f"of {self.every} ({every} steps) never comes: the run has {left} steps after its warm-up. "
                "Give a shorter one, or a percentage",
            )

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return self.gamma ** (step // duration_of(self, "every").steps(horizon))
