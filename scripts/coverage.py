"""How often the verdict's intervals hold the truth, and how often its claims are wrong, by simulation.

    python scripts/coverage.py                # 10,000 data sets for each line, a minute or two
    python scripts/coverage.py --sets 1000

The first table: the share of 95 % intervals that hold the true mean. The second: how often a verdict over several settings
rules out the truly best one (at most 5 % is promised), also with Holm's steps, how often it rules out any of settings that
are exactly alike, and how many rivals it leaves. Both go through the same functions as a sweep does.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gradlab.analysis.statistics import CONFIDENCE, compare, estimate

Numbers = npt.NDArray[np.float64]
IMAGES = 360
"""Validation images of the simulated accuracies: a coarse resolution, the digits have 144."""


def accuracies(mean: float) -> Callable[[np.random.Generator, tuple[int, ...]], Numbers]:
    """Counts of right answers as a binomial has them: coarse, skewed and bounded near 1."""
    return lambda random, shape: random.binomial(IMAGES, mean, shape) / IMAGES


def unlucky(random: np.random.Generator, shape: tuple[int, ...]) -> Numbers:
    """95 % accuracy, and one seed of ten that learns nothing: two heaps, nothing like normal."""
    return np.where(random.random(shape) < 0.1, 0.1, random.normal(0.95, 0.005, shape))


DISTRIBUTIONS: list[tuple[str, float, float, Callable[[np.random.Generator, tuple[int, ...]], Numbers]]] = [
    ("normal", 0.0, 0.0, lambda random, shape: random.normal(0, 1, shape)),
    ("accuracy of 0.90", 0.9, 1 / IMAGES, accuracies(0.9)),
    ("accuracy of 0.99", 0.99, 1 / IMAGES, accuracies(0.99)),
    ("accuracy of 0.998", 0.998, 1 / IMAGES, accuracies(0.998)),
    ("one seed of ten fails", 0.9 * 0.95 + 0.1 * 0.1, 0.0, unlucky),
]


def coverage(sets: int, random: np.random.Generator) -> None:
    print(f"| values | {' | '.join(f'n = {n}' for n in (3, 5, 10))} |\n|---|---|---|---|")
    for name, truth, resolution, draw in DISTRIBUTIONS:
        shares = []
        for n in (3, 5, 10):
            found = [estimate(list(values), resolution) for values in draw(random, (sets, n))]
            shares.append(np.mean([f.low - 1e-12 <= truth <= f.high + 1e-12 for f in found]))
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")


def claims(sets: int, random: np.random.Generator) -> None:
    """Settings whose true means fall off from the best by steps of ``gap`` standard deviations; seeds are shared."""
    print("\n| settings | n | gap | truly best ruled out | with Holm | any of equals ruled out | rivals left |")
    print("|---|---|---|---|---|---|---|")
    for count, n, gap in [
        (2, 3, 0.0),
        (5, 3, 0.0),
        (21, 3, 0.0),
        (21, 5, 0.0),
        (21, 10, 0.0),
        (21, 5, 0.5),
        (21, 10, 2.0),
    ]:
        wrong = wrong_holm = equal = 0
        rivals = 0.0
        for _ in range(sets):
            values = random.normal(0, 1, (count, n)) - gap * np.arange(count)[:, None]
            best = int(values.mean(1).argmax())
            other = [index for index in range(count) if index != best]
            p = {index: compare(dict(enumerate(values[best])), dict(enumerate(values[index]))).p for index in other}
            worse = {
                index for index in other if (count - 1) * p[index] < 1 - CONFIDENCE
            }  # the best has the highest mean
            wrong += 0 in worse
            equal += gap == 0 and bool(worse)
            wrong_holm += 0 in _holm(p)
            rivals += len(other) - len(worse)
        shown = f"{equal / sets:.1%}" if gap == 0 else "–"
        print(
            f"| {count} | {n} | {gap:g} | {wrong / sets:.2%} | {wrong_holm / sets:.2%} | {shown} | {rivals / sets:.1f} |",
            flush=True,
        )


def _holm(p_values: dict[int, float]) -> set[int]:
    """Those that Holm's steps would call worse."""
    called: set[int] = set()
    for rank, index in enumerate(sorted(p_values, key=lambda i: p_values[i])):
        if (len(p_values) - rank) * p_values[index] >= 1 - CONFIDENCE or math.isnan(p_values[index]):
            break
        called.add(index)
    return called


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the verdict's intervals and claims.")
    parser.add_argument("--sets", type=int, default=10_000, help="data sets for each line (default: %(default)s)")
    sets = parser.parse_args().sets
    random = np.random.default_rng(0)
    coverage(sets, random)
    claims(sets, random)


if __name__ == "__main__":
    main()
