"""Averages of the weights along the training; validation, test and the best network use the average.

Buffers are averaged like the weights (counters are copied). BatchNorm's statistics are means over the last steps already;
averaged over the same steps as the weights they describe the averaged network, where a copy would describe the last one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gradlab.bounds import check_number
from gradlab.durations import Horizon, duration_of
from gradlab.errors import FieldError
from gradlab.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from gradlab import stepping


class Averaging(Protocol):
    """What every entry of ``AVERAGING`` has."""

    @property
    def name(self) -> str: ...

    def check(self, horizon: Horizon) -> None:
        """Raise ``FieldError`` where a run of this length would never average."""

    def build(self, model: "nn.Module", horizon: Horizon) -> "stepping.Step":
        """The average at work, over ``model`` on its device."""


AVERAGING: Registry[Averaging] = Registry("averaging")


@AVERAGING.register("none")
@dataclass(frozen=True)
class NoAveraging:
    """The network as it is trained."""

    name: str

    def check(self, horizon: Horizon) -> None:
        """Goes with any run."""

    def build(self, model: "nn.Module", horizon: Horizon) -> "stepping.Step":
        from gradlab.stepping import Step

        return Step()


@dataclass(frozen=True)
class FromAStep:
    """When an average takes the weights in; an average adds their weight in it.

    start: when it begins, as ``5 epochs`` or ``75%``; until then validation uses the network as it is trained. 0 for the
        run's first step.
    every: rhythm, as ``1 steps`` or ``1 epochs``, counted from ``start``.
    """

    name: str
    start: str
    every: str

    def __post_init__(self) -> None:
        duration_of(self, "start")
        if duration_of(self, "every").number == 0:
            raise FieldError("every", "must be above 0")

    def check(self, horizon: Horizon) -> None:
        start, every = (duration_of(self, field).steps(horizon) for field in ("start", "every"))
        if start >= horizon.total_steps:
            raise FieldError(
                "start", f"of {self.start} ({start} steps) never comes: the run has {horizon.total_steps} steps"
            )
        if start + every > horizon.total_steps:
            raise FieldError(
                "every",
                f"of {self.every} ({every} steps) never comes: the run has {horizon.total_steps - start} steps after "
                "averaging.start. Give a shorter one, or a percentage",
            )

    def build(self, model: "nn.Module", horizon: Horizon) -> "stepping.Step":
        from gradlab.stepping import Average

        start, every = (duration_of(self, field).steps(horizon) for field in ("start", "every"))
        return Average(model, start, every, self.share)

    def share(self, number: int) -> float:
        """The share of the newest weights in the average, the ``number``-th taken in, counted from 1; in (0, 1]."""
        raise NotImplementedError


@AVERAGING.register("ema")
@dataclass(frozen=True)
class EMA(FromAStep):
    """Exponential moving average (Polyak averaging): average ← decay·average + (1 − decay)·weights.

    start, every: see FromAStep.
    decay: what is kept of the average when weights are taken in, in (0, 1): it reaches about every/(1 − decay) steps back.
    bias_correction: divide by 1 − decay^t as Adam does, so that the t weights taken in are all that counts. Without it
        the average begins as the weights at ``start``, which fade slowly.
    """

    decay: float
    bias_correction: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "decay", above=0, below=1)

    def share(self, number: int) -> float:
        return (1 - self.decay) / (1 - self.decay**number if self.bias_correction else 1.0)


@AVERAGING.register("swa")
@dataclass(frozen=True)
class SWA(FromAStep):
    """Stochastic weight averaging (Izmailov et al., 2018, https://arxiv.org/abs/1803.05407): the mean of all weights taken in.

    It wants a learning rate that stays high, as with schedule=constant or cyclic. Where the paper passes over the training
    images once more for BatchNorm's statistics, theirs are averaged.

    start, every: see FromAStep.
    """

    def share(self, number: int) -> float:
        return 1 / number
