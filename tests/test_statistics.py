"""Student's t and what is made of it, against scipy and against numbers worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from gradlab.analysis.statistics import (
    Comparison,
    compare,
    estimate,
    resolution_of,
    seeds_needed,
    student_p,
    student_quantile,
)


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3.7, 9, 30, 1000])
def test_student_is_scipys(freedom: float) -> None:
    for t in (0.0, 1e-3, 0.3, 1.0, 2.5, 12.7, 400.0):
        assert student_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9, abs=1e-300)
        assert student_p(-t, freedom) == student_p(t, freedom)
    for probability in (0.6, 0.9, 0.975, 0.995):
        assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-8)


def test_an_estimate_by_hand() -> None:
    found = estimate([0.90, 0.92, 0.94])
    assert found.n == 3
    assert found.mean == pytest.approx(0.92)
    assert found.std == pytest.approx(0.02)  # squares of 0.02, 0, 0.02 over 2
    assert found.half == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert not found.floored


def test_one_value_has_no_interval() -> None:
    found = estimate([0.5], resolution=0.1)
    assert found.mean == 0.5
    assert math.isnan(found.std)
    assert math.isnan(found.half)


def test_equal_values_have_the_spread_of_their_resolution_or_no_interval() -> None:
    assert math.isnan(estimate([0.98, 0.98, 0.98]).half)
    found = estimate([0.98, 0.98, 0.98], resolution=0.01)
    assert found.std == 0
    assert found.floored
    assert found.half == pytest.approx(stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(12) / math.sqrt(3))


def test_shared_seeds_are_compared_in_pairs() -> None:
    first, second = {0: 0.95, 1: 0.93, 2: 0.97, 7: 0.1}, {0: 0.94, 1: 0.90, 2: 0.95, 9: 0.2}
    found = compare(first, second)
    reference = stats.ttest_rel([0.95, 0.93, 0.97], [0.94, 0.90, 0.95])
    interval = stats.ttest_rel([0.95, 0.93, 0.97], [0.94, 0.90, 0.95]).confidence_interval()
    assert (found.paired, found.n) == (True, 3)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.difference - found.half, found.difference + found.half) == pytest.approx(tuple(interval))
    assert compare(second, first).p == pytest.approx(found.p)


def test_others_are_compared_by_welch() -> None:
    first, second = {0: 0.95, 1: 0.93, 2: 0.97}, {3: 0.90, 4: 0.91, 5: 0.95, 6: 0.92}
    found = compare(first, second)
    reference = stats.ttest_ind(list(first.values()), list(second.values()), equal_var=False)
    assert (found.paired, found.n) == (False, 3)
    assert found.p == pytest.approx(reference.pvalue)
    low, high = reference.confidence_interval()
    assert (found.difference - found.half, found.difference + found.half) == pytest.approx((low, high))


def test_without_spread_there_is_no_saying() -> None:
    assert math.isnan(compare({0: 1.0, 1: 1.0}, {0: 0.9, 1: 0.9}).p)
    assert math.isnan(compare({0: 1.0}, {0: 0.9}).p)
    assert compare({0: 1.0, 1: 1.0}, {0: 0.9, 1: 0.9}, resolution=0.01).p < 0.03
    tie = compare({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}, resolution=0.01)
    assert (tie.difference, tie.p) == (0, 1)


def test_rounding_is_no_difference() -> None:
    assert compare({0: 0.1 + 0.2, 1: 0.5}, {0: 0.3, 1: 0.5}).difference == 0


def _power(n: int, effect: float, paired: bool) -> float:
    """Of a two-sided t-test at 5 %, exactly; ``effect`` is the difference over the spread of one difference."""
    freedom = n - 1 if paired else 2 * n - 2
    shift, edge = effect * math.sqrt(n), stats.t.ppf(0.975, freedom)
    return float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("effect", [0.2, 0.35, 0.6, 1.0, 1.5])
def test_seeds_needed_is_within_one_of_the_exact_number(paired: bool, effect: float) -> None:
    exact = next(n for n in range(2, 1000) if _power(n, effect, paired) >= 0.8)
    needed = seeds_needed(Comparison(effect, 0.1, 1.0, 0.5, paired, 3))
    assert abs(needed - max(exact, 3)) <= 1


def test_no_number_of_seeds_parts_equals() -> None:
    assert seeds_needed(Comparison(0.0, 0.1, 1.0, 0.5, True, 3)) == math.inf
    assert seeds_needed(Comparison(0.1, math.nan, math.nan, math.nan, False, 1)) == math.inf


def test_the_resolution_is_the_smallest_real_gap() -> None:
    assert resolution_of([0.9, 0.95, 0.95 + 1e-13, 1.0]) == pytest.approx(0.05)
    assert resolution_of([0.7, 0.7]) == 0
    assert resolution_of([]) == 0


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_hold_the_truth_in_95_of_100(n: int) -> None:
    """1,500 data sets: the share is within three standard errors of 95 %. scripts/coverage.py has more, and worse, cases."""
    values = np.random.default_rng(n).normal(0.9, 0.01, (1500, n))
    found = [estimate(list(row)) for row in values]
    share = np.mean([each.low <= 0.9 <= each.high for each in found])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1500)
