"""Schedules of constant levels with drops between them."""

import itertools
from dataclasses import dataclass

from gradlab.bounds import check_number
from gradlab.durations import Horizon, duration_of, durations_of
from gradlab.errors import FieldError
from gradlab.schedules.base import SCHEDULES, WarmedUp


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
        left = self.left(horizon)
        if every >= left:
            raise FieldError(
                "every",
                f"of {self.every} ({every} steps) never comes: the run has {left} steps after its warm-up. "
                "Give a shorter one, or a percentage",
            )

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return self.gamma ** (step // duration_of(self, "every").steps(horizon))


@SCHEDULES.register("multi_step")
@dataclass(frozen=True)
class MultiStep(WarmedUp):
    """Drops the learning rate to ``gamma`` times what it was at each of ``milestones``.

    warmup: see WarmedUp; it must be over at the first milestone.
    milestones: the places of the drops, from the run's first step on, as ``[50%, 75%]`` or ``[30 epochs, 60 epochs]``;
        rising, inside the run.
    gamma: the factor of one drop, in (0, 1).
    """

    milestones: list[str]
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        milestones = durations_of(self, "milestones")
        if not milestones:
            raise FieldError("milestones", "must not be empty: without drops it is schedule=constant")
        for milestone in milestones:
            if milestone.number == 0 or (milestone.unit == "percent" and milestone.number >= 100):
                raise FieldError("milestones", f"must be inside the run, and {milestone} is not")
        check_number(self, "gamma", above=0, below=1)

    def check(self, horizon: Horizon) -> None:
        super().check(horizon)
        milestones = durations_of(self, "milestones")
        steps = [milestone.steps(horizon) for milestone in milestones]
        warmup = duration_of(self, "warmup").steps(horizon)
        if steps[0] < warmup:
            raise FieldError(
                "milestones", f"begin with {milestones[0]} ({steps[0]} steps), and the warm-up takes {warmup} steps"
            )
        for milestone, step in zip(milestones, steps, strict=True):
            # The rounding of a percentage may reach the end of a run of a few steps; that is no mistake.
            if step >= horizon.total_steps and milestone.unit != "percent":
                raise FieldError(
                    "milestones",
                    f"have {milestone} ({step} steps), which never comes: the run has {horizon.total_steps} steps. Give "
                    "an earlier one, or a percentage",
                )
        if any(later < earlier for earlier, later in itertools.pairwise(steps)):
            raise FieldError("milestones", f"must rise, and they are at the steps {steps}")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        since_start = step + horizon.total_steps - span
        drops = sum(since_start >= milestone.steps(horizon) for milestone in durations_of(self, "milestones"))
        return self.gamma**drops
