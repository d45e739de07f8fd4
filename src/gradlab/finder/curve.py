"""What the curves of learning-rate range tests support: pure functions from losses to a suggestion, or to a doubt.

Peers take the steepest fall of one curve (Smith, 2015; Lightning; torch-lr-finder) or a point in its longest fall (fastai's
valley). Measured against full grids, those are two to three decades apart from the best rate and move with the length of
the ramp. What stays put is where the loss stops falling and begins to climb; experiments/04-find-lr has the figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SMOOTHING = 0.1
"""Decades of the learning rate over which a loss is averaged."""
CLIMB = 0.1
"""The loss climbs where its logarithm has risen, from its lowest, by this share of what it had fallen before."""
MARGIN = 1.2
"""The suggestion is so many times lower than where the loss climbs; an optimizer may have a ``climb_margin`` of its own."""
LEAST_FALL = 0.1
"""A loss that never falls by this share says nothing about rates."""
AGREEMENT = 3.0
"""Ramps that differ by more than this factor do not agree."""
GROWTH = 1.3
"""Weights that have grown by more before the loss climbs, in a network that normalises, have undone the rise of the rate."""
EXPLODED = 3.0
"""A loss of so many times that of the start has exploded; it is cut there."""


def smooth(losses: Floats, window: float) -> Floats:
    """Losses [..., steps] averaged over about ``window`` steps (≥ 1) before and after each.

    The mean of two exponential averages, one from either end, so that nothing is shifted; each is divided by the sum of its
    weights, so that the ends are not drawn towards 0 (the bias correction of Adam).
    """
    keep = 1 - 1 / max(window, 1.0)
    smoothed: Floats = (_average(losses, keep) + _average(losses[..., ::-1], keep)[..., ::-1]) / 2
    return smoothed


def _average(losses: Floats, keep: float) -> Floats:
    sums, weights = np.zeros(losses.shape[:-1]), 0.0
    averages = np.empty(losses.shape)
    for step in range(losses.shape[-1]):
        sums, weights = keep * sums + losses[..., step], keep * weights + 1
        averages[..., step] = sums / weights
    return averages


def exploded(losses: Sequence[float]) -> bool:
    """Whether a ramp with these losses so far need not go on: the last is not finite, or the last five are far above the start."""
    if not losses:
        return False
    if not math.isfinite(losses[-1]):
        return True
    return len(losses) >= 30 and float(np.mean(losses[-5:])) > EXPLODED * float(np.mean(losses[:5]))


def completed(losses: Floats, steps: int) -> Floats:
    """The losses of one ramp as float64 [steps]: cut at the height of an explosion, which goes on where the ramp ended early."""
    top = EXPLODED * float(np.mean(losses[:5]))
    found = np.minimum(np.where(np.isfinite(losses), losses, np.inf), top)
    return np.concatenate([found, np.full(steps - len(found), top)])


@dataclass(frozen=True)
class Points:
    """What is marked on one smoothed curve, as learning rates; None for what is not on it.

    fall: the greatest fall of the loss, as a share of where it began, in [0, 1].
    falling: where the loss is within a tenth (of its fall, in the logarithm) of its lowest.
    lowest: where it is lowest.
    climbs: where it has climbed by as much.
    steepest: where it falls fastest against the logarithm of the rate.
    """

    fall: float
    falling: float
    lowest: float
    climbs: float | None
    steepest: float


def points(rates: Floats, smoothed: Floats) -> Points:
    """The points of one smoothed curve, float64 [steps] like ``rates``, which rise."""
    heights = np.log(np.maximum(smoothed, 1e-12))
    lowest = int(np.argmin(heights))
    line = heights[lowest] + CLIMB * (heights[0] - heights[lowest])
    above = np.flatnonzero(heights[lowest:] > line)
    slopes = np.gradient(smoothed, np.log10(rates))
    return Points(
        fall=1 - float(smoothed[lowest] / smoothed[0]),
        falling=float(rates[int(np.argmax(heights[: lowest + 1] <= line))]),
        lowest=float(rates[lowest]),
        climbs=float(rates[lowest + above[0]]) if len(above) else None,
        steepest=float(rates[int(np.argmin(slopes[: lowest + 1]))]),
    )


@dataclass(frozen=True)
class Reading:
    """What several ramps over the same rates say together.

    rates: float64 [steps].
    losses: of each ramp, cut at an explosion, [ramps, steps].
    each: the smoothed losses, [ramps, steps].
    smoothed: their geometric mean, [steps].
    points: of that mean.
    growth: how many times larger the weights are, where a network that normalises is at the suggestion; None elsewhere.
    votes: what each ramp alone would suggest; None for one that does not climb.
    suggestion: the learning rate; or None where the curve has none.
    doubt: why it is not sure; or None where it is.
    """

    rates: Floats
    losses: Floats
    each: Floats
    smoothed: Floats
    points: Points
    growth: float | None
    votes: tuple[float | None, ...]
    suggestion: float | None
    doubt: str | None


def read(rates: Floats, losses: Floats, growth: Floats | None = None, margin: float = MARGIN) -> Reading:
    """Read ramps: ``losses`` [ramps, steps], as ``completed`` gives them, at ``rates`` [steps], which rise.

    ``growth`` [ramps, steps] is that of the weights of a network with normalising layers, NaN where a ramp had ended; or None.
    ``margin`` is how many times lower than where the loss climbs the suggestion is, > 0.
    """
    window = SMOOTHING * len(rates) / math.log10(rates[-1] / rates[0])
    each = smooth(losses, window)
    smoothed = np.exp(np.log(np.maximum(each, 1e-12)).mean(0))
    found = points(rates, smoothed)
    alone = [points(rates, one).climbs for one in each]
    votes = tuple(None if climbs is None else climbs / margin for climbs in alone)
    suggestion = None if found.climbs is None or found.fall < LEAST_FALL else found.climbs / margin
    grown = None
    if growth is not None and suggestion is not None:
        there = growth[:, int(np.searchsorted(rates, suggestion))]
        grown = float(np.median(there[np.isfinite(there)])) if np.isfinite(there).any() else None
    doubt = _doubt(rates, found, votes, grown)
    return Reading(rates, losses, each, smoothed, found, grown, votes, suggestion, doubt)


def _doubt(rates: Floats, found: Points, votes: tuple[float | None, ...], grown: float | None) -> str | None:
    low, high = rates[0], rates[-1]
    if found.fall < LEAST_FALL:
        return f"the loss falls by no more than {max(found.fall, 0):.0%} at any rate from {low:.2g} to {high:.2g}"
    if found.climbs is None:
        return f"the loss does not climb again up to a rate of {high:.2g}, so the curve has no upper end"
    told = [vote for vote in votes if vote is not None]
    if len(told) < len(votes):
        return f"{len(votes) - len(told)} of {len(votes)} ramps do not climb again up to a rate of {high:.2g}"
    if max(told) > AGREEMENT * min(told):
        return f"the ramps do not agree: they say {min(told):.2g} to {max(told):.2g}"
    if grown is not None and grown > GROWTH:
        return (
            f"the weights have grown to {grown:.2g} times their size before the loss climbs; behind normalising layers that "
            "undoes a high rate, and much lower ones may train as well"
        )
    return None
