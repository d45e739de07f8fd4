"""Schedules with a shape: cycles, restarts, and a plateau between two slopes."""

import math
from dataclasses import dataclass

from gradlab.bounds import check_number
from gradlab.durations import Horizon, duration_of
from gradlab.errors import FieldError
from gradlab.schedules.base import SCHEDULES, WarmedUp, check_length, check_room


@SCHEDULES.register("cosine_restarts")
@dataclass(frozen=True)
class CosineRestarts(WarmedUp):
    """Half cosines from 1 down to ``final``, each followed by a restart at 1: SGDR.

    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983. The run ends where it ends, which may be inside of a
    period; periods of 1, 2 and 4 sevenths of the run end with it.

    warmup: see WarmedUp.
    first: length of the first period, as ``10 epochs``, ``2000 steps`` or ``25%``; above 0 and shorter than the run. A
        percentage is not rounded to steps, so that 25% are four periods exactly.
    multiplier: length of each period over that of the one before, ≥ 1.
    final: the factor at the end of a period, in [0, 1].
    """

    first: str
    multiplier: float
    final: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "first")
        check_number(self, "multiplier", at_least=1)
        check_number(self, "final", at_least=0, at_most=1)

    def check(self, horizon: Horizon) -> None:
        super().check(horizon)
        check_room(self, "first", horizon, room_for="a restart (without one it is schedule=cosine)")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        period = max(1.0, duration_of(self, "first").exact_steps(horizon))
        if self.multiplier == 1:
            within = math.fmod(step, period)
        else:
            within = float(step)
            while within >= period:
                within -= period
                period *= self.multiplier
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * within / period))


@SCHEDULES.register("one_cycle")
@dataclass(frozen=True)
class OneCycle(WarmedUp):
    """Up from ``start`` to 1, then down to ``final``, both along half a cosine (Smith and Topin, 2018).

    https://arxiv.org/abs/1708.07120. It is torch's OneCycleLR with anneal_strategy="cos", for the learning rate alone:
    start = 1/div_factor and final = start/final_div_factor. The last step has the factor ``final``. It has a rise of its
    own, so a warm-up before it goes up to ``start`` only.

    warmup: see WarmedUp.
    rise: length of the way up, whose last step has the factor 1, as ``30%``, ``5 epochs`` or ``500 steps``; above 0 and
        shorter than the run.
    start: the factor at the first step, in (0, 1].
    final: the factor at the last step, in [0, 1].
    """

    rise: str
    start: float
    final: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "rise")
        check_number(self, "start", above=0, at_most=1)
        check_number(self, "final", at_least=0, at_most=1)

    def check(self, horizon: Horizon) -> None:
        super().check(horizon)
        check_room(self, "rise", horizon, room_for="the way down")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        peak = duration_of(self, "rise").steps(horizon) - 1
        if step < peak:
            low, way = self.start, 1 - step / peak
        else:
            low, way = self.final, (step - peak) / (span - 1 - peak)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * way))


@SCHEDULES.register("trapezoid")
@dataclass(frozen=True)
class Trapezoid(WarmedUp):
    """Warm-up, a plateau at 1, and a line down to ``final`` at the end: warm-up, stable, decay.

    Zhai et al., 2022, https://arxiv.org/abs/2106.04560 (the cooldown); Hägele et al., 2024,
    https://arxiv.org/abs/2405.18392. The line reaches ``final`` one step after the last one.

    warmup: see WarmedUp.
    decay: length of the way down, as ``20%``, ``5 epochs`` or ``500 steps``; above 0, and with the warm-up no longer than
        the run.
    final: the factor at the end, in [0, 1].
    """

    decay: str
    final: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "decay")
        check_number(self, "final", at_least=0, at_most=1)

    def check(self, horizon: Horizon) -> None:
        super().check(horizon)
        decay, left = duration_of(self, "decay").steps(horizon), self.left(horizon)
        if decay > left:
            raise FieldError(
                "decay", f"of {self.decay} ({decay} steps) is longer than the {left} steps after the warm-up"
            )

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        decay = duration_of(self, "decay").steps(horizon)
        return 1 - (1 - self.final) * max(0, step - (span - decay)) / decay


@SCHEDULES.register("cyclic")
@dataclass(frozen=True)
class Cyclic(WarmedUp):
    """Straight up from ``low`` to 1 and down again, over and over: the triangular policy (Smith, 2017).

    https://arxiv.org/abs/1506.01186. It begins at ``low``, so a warm-up before it goes up to ``low`` only.

    warmup: see WarmedUp.
    rise: length of one way up, and of one way down, as ``2 epochs``, ``500 steps`` or ``12.5%``; above 0 and shorter than
        the run.
    low: the factor between two cycles, in [0, 1).
    """

    rise: str
    low: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "rise")
        check_number(self, "low", at_least=0, below=1)

    def check(self, horizon: Horizon) -> None:
        super().check(horizon)
        check_room(self, "rise", horizon, room_for="its peak")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        rise = duration_of(self, "rise").steps(horizon)
        return self.low + (1 - self.low) * (1 - abs(step % (2 * rise) / rise - 1))
