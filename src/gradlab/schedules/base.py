"""What every schedule has, the warm-up that all of ours share, and the registry."""

from dataclasses import dataclass
from typing import Protocol

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
    """The warm-up that all schedules share, to where the curve begins; a schedule adds ``curve``.

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
        span = horizon.total_steps - warmup
        if step < warmup:
            return (step + 1) / warmup * self.curve(0, span, horizon)
        return self.curve(step - warmup, span, horizon)

    def left(self, horizon: Horizon) -> int:
        """The steps of the run after its warm-up."""
        return horizon.total_steps - duration_of(self, "warmup").steps(horizon)

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        """The factor at ``step`` of the ``span`` steps after the warm-up; ``horizon`` is the whole run's."""
        raise NotImplementedError


def check_length(owner: WarmedUp, field: str) -> None:
    """Raise unless ``owner.field`` is a length above 0."""
    if duration_of(owner, field).number == 0:
        raise FieldError(field, "must be above 0")


def check_room(owner: WarmedUp, field: str, horizon: Horizon, *, room_for: str) -> None:
    """Raise unless ``owner.field`` is shorter than what the warm-up leaves of the run; ``room_for`` says of what."""
    steps, left = duration_of(owner, field).steps(horizon), owner.left(horizon)
    if steps >= left:
        raise FieldError(
            field,
            f"of {getattr(owner, field)} ({steps} steps) leaves no room for {room_for}: the run has {left} steps after "
            "its warm-up. Give a shorter one, or a percentage",
        )
