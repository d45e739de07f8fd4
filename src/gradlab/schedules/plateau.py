"""The one schedule that is no function of the step: it watches validation."""

from dataclasses import dataclass
from typing import Any

from gradlab.bounds import check_number, check_option
from gradlab.durations import Horizon, duration_of
from gradlab.errors import FieldError
from gradlab.schedules.base import SCHEDULES, WarmedUp

UNITS = ("validations", "steps", "epochs", "percent")


@SCHEDULES.register("plateau")
@dataclass(frozen=True)
class Plateau(WarmedUp):
    """Drops the learning rate to ``gamma`` times what it was when validation no longer gets better.

    As torch's ReduceLROnPlateau; alone among the schedules it cannot be drawn before the training. ``factor`` is what it
    would be without drops; a ``PlateauWatch`` has the factor in force. Validations within the warm-up are not watched.

    warmup: see WarmedUp.
    watch: ``loss`` or ``accuracy`` of validation.
    gamma: the factor of one drop, in (0, 1).
    patience: how long nothing better is borne with, as ``5 validations``, ``500 steps`` or ``3 epochs``; it must be
        exceeded for a drop, and is looked at when validation comes (trainer.validate_every).
    threshold: how much better counts, as a share of the best so far, in [0, 1).
    cooldown: how long after a drop nothing is counted, as ``patience``; or 0.
    min_factor: no drop goes below, in [0, 1).
    """

    watch: str
    gamma: float
    patience: str
    threshold: float
    cooldown: str
    min_factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self, "watch", ["loss", "accuracy"])
        check_number(self, "gamma", above=0, below=1)
        check_number(self, "threshold", at_least=0, below=1)
        check_number(self, "min_factor", at_least=0, below=1)
        for field in ("patience", "cooldown"):
            duration = duration_of(self, field, units=UNITS)
            if duration.unit == "validations" and duration.number != int(duration.number):
                raise FieldError(field, f"must be a whole number of validations, not {duration.number:g}")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return 1.0


class PlateauWatch:
    """What a plateau schedule has seen, and the factor that follows: multiplies ``Plateau.factor``.

    Args:
        schedule: the numbers.
        horizon: length of the run.
    """

    def __init__(self, schedule: Plateau, horizon: Horizon) -> None:
        self.schedule = schedule
        self.horizon = horizon
        self.factor = 1.0
        self.best: float | None = None
        self.last_step = duration_of(schedule, "warmup").steps(horizon)
        self.waited = {"steps": 0, "validations": 0}
        self.cooled = {"steps": 0, "validations": 0}
        self.cooling = False

    def see(self, step: int, metrics: dict[str, float]) -> None:
        """Validation after ``step`` optimizer steps has given ``metrics``."""
        elapsed = {"steps": step - self.last_step, "validations": 1}
        if elapsed["steps"] <= 0:  # still warming up, or the same step again
            return
        self.last_step = step
        value = metrics[f"val/{self.schedule.watch}"]
        if self._is_better(value):
            self.best, self.waited = value, {"steps": 0, "validations": 0}
        else:
            self.waited = _plus(self.waited, elapsed)
        if self.cooling:
            self.cooled = _plus(self.cooled, elapsed)
            self.waited = {"steps": 0, "validations": 0}
            self.cooling = not self._reached("cooldown", self.cooled)
        if self._exceeded("patience", self.waited):
            self.factor = max(self.factor * self.schedule.gamma, self.schedule.min_factor)
            self.waited, self.cooled = ({"steps": 0, "validations": 0} for _ in range(2))
            self.cooling = duration_of(self.schedule, "cooldown", units=UNITS).number > 0

    def state(self) -> dict[str, Any]:
        """What a continuation needs, for JSON."""
        return {key: value for key, value in vars(self).items() if key not in ("schedule", "horizon")}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        vars(self).update(state)

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return True
        if self.schedule.watch == "loss":
            return value < self.best * (1 - self.schedule.threshold)
        return value > self.best * (1 + self.schedule.threshold)

    def _length(self, field: str, counted: dict[str, int]) -> tuple[int, float]:
        """What of ``counted`` is in the unit of ``field``, and the length in it."""
        duration = duration_of(self.schedule, field, units=UNITS)
        if duration.unit == "validations":
            return counted["validations"], duration.number
        return counted["steps"], duration.steps(self.horizon)

    def _exceeded(self, field: str, counted: dict[str, int]) -> bool:
        count, length = self._length(field, counted)
        return count > length

    def _reached(self, field: str, counted: dict[str, int]) -> bool:
        count, length = self._length(field, counted)
        return count >= length


def _plus(counted: dict[str, int], elapsed: dict[str, int]) -> dict[str, int]:
    return {unit: count + elapsed[unit] for unit, count in counted.items()}
