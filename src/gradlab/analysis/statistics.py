"""How sure a mean over seeds is, and a difference of two: Student's t, without scipy (which takes a second to import).

Everything here is about numbers; what they are compared for is in ``ranking.py``. How often the intervals cover the
truth, and how often two equal settings are told apart, is measured by ``scripts/coverage.py``.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
POWER = 0.8
_Z_CONFIDENCE, _Z_POWER = 1.959963984540054, 0.8416212335729143  # standard normal quantiles of 0.975 and 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    n: number of values, ≥ 1.
    mean: their mean.
    std: standard deviation with n - 1 in the denominator; NaN for n = 1.
    half: half the width of the 95 % confidence interval of the mean (Student's t, n - 1 degrees of freedom); NaN where
        there is none: n = 1, or all values equal and no resolution known.
    floored: whether ``half`` comes from the resolution of the values, because they spread less than that.
    """

    n: int
    mean: float
    std: float
    half: float
    floored: bool

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


@dataclass(frozen=True)
class Comparison:
    """How much the mean of one setting is above that of another.

    difference: estimate of it.
    half: half the width of its 95 % confidence interval, not adjusted for the number of comparisons.
    std: spread of the difference of one seed of each.
    p: two-sided p-value of no difference, not adjusted; NaN where there is no interval.
    paired: whether it is the mean of the differences over shared seeds; else Welch's comparison of two means.
    n: seeds shared if paired, else of the smaller one.
    """

    difference: float
    half: float
    std: float
    p: float
    paired: bool
    n: int


def estimate(values: Sequence[float], resolution: float = 0.0) -> Estimate:
    """The mean of ``values`` (finite, at least one) and its 95 % confidence interval.

    Args:
        values: one for each seed.
        resolution: the step in which values can differ at all, such as one validation image; 0 for none. An accuracy
            counts images, and three seeds that agree to the image are no proof of a spread of zero: the spread is taken
            to be at least that of rounding to the resolution, resolution/√12.
    """
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(1, mean, math.nan, math.nan, False)
    std, floor = _std(values), resolution / math.sqrt(12)
    used = max(std, floor)
    half = student_quantile((1 + CONFIDENCE) / 2, n - 1) * used / math.sqrt(n) if used > 0 else math.nan
    return Estimate(n, mean, std, half, 0 < floor > std)


def compare(first: Mapping[int, float], second: Mapping[int, float], resolution: float = 0.0) -> Comparison:
    """How much ``first`` is above ``second``, each the values by seed.

    Over the seeds that both have, if there are two or more: what a seed does to both (its initialisation, its order of
    images) cancels. Else by Welch's t-test, which does not take the two spreads for equal.
    """
    shared = sorted(first.keys() & second.keys())
    if len(shared) >= 2:
        differences = [first[seed] - second[seed] for seed in shared]
        mean, n = _unrounded(float(np.mean(differences))), len(shared)
        std = max(_std(differences), resolution / math.sqrt(6))  # the rounding of two values
        return _comparison(mean, std, std / math.sqrt(n), n - 1, True, n)
    a, b = list(first.values()), list(second.values())
    mean, n = _unrounded(float(np.mean(a) - np.mean(b))), min(len(a), len(b))
    if n < 2:
        return Comparison(mean, math.nan, math.nan, math.nan, False, n)
    floor = resolution / math.sqrt(12)
    variances = [max(_std(values), floor) ** 2 / len(values) for values in (a, b)]
    total = sum(variances)
    if total == 0:
        return _comparison(mean, 0.0, 0.0, 1, False, n)
    freedom = total**2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(variances, (a, b), strict=True) if part > 0
    )
    # The spread of the difference of one seed of each, for the number of seeds that would be needed.
    return _comparison(mean, math.sqrt(total * n), math.sqrt(total), freedom, False, n)


def _comparison(mean: float, std: float, error: float, freedom: float, paired: bool, n: int) -> Comparison:
    if error == 0:  # no spread and no resolution: there is no saying
        return Comparison(mean, math.nan, 0.0, math.nan, paired, n)
    half = student_quantile((1 + CONFIDENCE) / 2, freedom) * error
    return Comparison(mean, half, std, student_p(mean / error, freedom), paired, n)


def seeds_needed(comparison: Comparison) -> float:
    """Seeds that would tell two settings apart, at the observed difference and spread; infinite for no difference.

    For a two-sided t-test at 5 % with a power of 80 %: the normal formula with Guenther's correction for the estimated
    spread (Guenther, 1981, The American Statistician 35), within one of the exact number.
    """
    if comparison.difference == 0 or not comparison.std > 0:
        return math.inf
    ratio = (_Z_CONFIDENCE + _Z_POWER) * comparison.std / abs(comparison.difference)
    correction = _Z_CONFIDENCE**2 / (2 if comparison.paired else 4)
    return float(max(3, math.ceil(ratio**2 + correction)))


def resolution_of(values: Sequence[float]) -> float:
    """The smallest difference between any two of ``values`` that is more than rounding; 0 where all are equal."""
    ordered = np.unique(np.asarray(values, dtype=float))
    gaps = np.diff(ordered)
    gaps = gaps[gaps > 1e-9 * max(1.0, float(np.abs(ordered).max(initial=0)))]
    return float(gaps.min()) if len(gaps) else 0.0


def _unrounded(difference: float) -> float:
    """0 for a difference that is only the rounding of sums."""
    return 0.0 if abs(difference) < 1e-12 else difference


def _std(values: Sequence[float]) -> float:
    """Standard deviation over n - 1; exactly 0 for equal values, which a computed mean may miss by a rounding."""
    return float(np.std(values, ddof=1)) if max(values) > min(values) else 0.0


# ------------------------------------------------------------------- Student's t


def student_p(t: float, freedom: float) -> float:
    """Two-sided p-value of ``t`` with ``freedom`` > 0 degrees of freedom."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@functools.lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t stays below with ``probability`` in (0.5, 1)."""
    tail, low, high = 2 * (1 - probability), 0.0, 2.0
    while student_p(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_p(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # The fraction converges fast on one side of the mean; the other side is one minus it.
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 500):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + factor * d or tiny)
            c = 1 + factor / c or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
