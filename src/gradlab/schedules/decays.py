"""Schedules that fall all along, or stay."""

import math
from dataclasses import dataclass

from gradlab.bounds import check_number
from gradlab.durations import Horizon, duration_of
from gradlab.schedules.base import SCHEDULES, WarmedUp, check_length


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


@SCHEDULES.register("linear")
@dataclass(frozen=True)
class Linear(WarmedUp):
    """A straight line from 1 down to ``final``, which it reaches one step after the last one.

    warmup: see WarmedUp.
    final: the factor at the end, in [0, 1].
    """

    final: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "final", at_least=0, at_most=1)

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return self.final + (1 - self.final) * (1 - step / span)


@SCHEDULES.register("polynomial")
@dataclass(frozen=True)
class Polynomial(WarmedUp):
    """final + (1 − final)·(1 − t)^power, t from 0 to 1 over the run; "poly" in segmentation.

    Chen et al., 2017, https://arxiv.org/abs/1606.00915. power=1 is linear.

    warmup: see WarmedUp.
    power: the exponent, > 0; below 1 the rate stays high for longer.
    final: the factor at the end, in [0, 1].
    """

    power: float
    final: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "power", above=0)
        check_number(self, "final", at_least=0, at_most=1)

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return self.final + (1 - self.final) * math.pow(1 - step / span, self.power)


@SCHEDULES.register("exponential")
@dataclass(frozen=True)
class Exponential(WarmedUp):
    """gamma^(t/per): falls to ``gamma`` times what it was in every ``per``, a little at each step.

    warmup: see WarmedUp.
    gamma: the factor of one ``per``, in (0, 1).
    per: the length that gamma is meant for, as ``1 epochs``, ``1000 steps`` or ``10%``; above 0.
    """

    gamma: float
    per: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "gamma", above=0, below=1)
        check_length(self, "per")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return float(self.gamma ** (step / duration_of(self, "per").steps(horizon)))


@SCHEDULES.register("inverse_time")
@dataclass(frozen=True)
class InverseTime(WarmedUp):
    """1/(1 + k·t), t in units of ``per``: the decay of Robbins and Monro (1951), whose sum diverges.

    https://doi.org/10.1214/aoms/1177729586

    warmup: see WarmedUp.
    k: rate of the decay, > 0; after 1/k of ``per`` the factor is a half.
    per: the unit of t, as ``1 epochs``, ``1000 steps`` or ``10%``; above 0.
    """

    k: float
    per: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "k", above=0)
        check_length(self, "per")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return 1 / (1 + self.k * step / duration_of(self, "per").steps(horizon))


@SCHEDULES.register("inverse_sqrt")
@dataclass(frozen=True)
class InverseSqrt(WarmedUp):
    """1/√(1 + t/timescale) (Zhai et al., 2022, https://arxiv.org/abs/2106.04560), for runs without a fixed end.

    With a timescale equal to the warm-up it is √(warmup/step), as of "Attention is all you need" (Vaswani et al., 2017,
    https://arxiv.org/abs/1706.03762).

    warmup: see WarmedUp.
    timescale: the time after which the factor is 1/√2, as ``2 epochs``, ``1000 steps`` or ``10%``; above 0.
    """

    timescale: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "timescale")

    def curve(self, step: int, span: int, horizon: Horizon) -> float:
        return 1 / math.sqrt(1 + step / duration_of(self, "timescale").steps(horizon))
