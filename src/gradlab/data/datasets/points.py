"""Points in a plane, made and not read: two classes that no straight line parts. Small enough to see all of a network."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradlab.bounds import check_number
from gradlab.data.datasets.base import DATASETS, Batched, Examples, Splits, fingerprint, held_out, stratified_split
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError

LEAST = 8


@dataclass(frozen=True)
class Points(Batched, ABC):
    """Two curves in a plane and noise around them: float32 "images" of two numbers, [n, 2, 1, 1].

    A subclass draws the curves. The test points are split off first, by split_seed, then the validation points.
    """

    examples: int
    noise: float
    points_seed: int
    test_fraction: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "examples", at_least=LEAST)
        check_number(self, "noise", at_least=0)
        check_number(self, "points_seed", at_least=0, below=2**32)
        check_number(self, "test_fraction", above=0, below=1)
        if self.examples - held_out(self.examples, self.test_fraction) < 2:
            raise FieldError("test_fraction", f"of {self.test_fraction} leaves one point to train and to validate on")

    @abstractmethod
    def classes(self) -> tuple[str, str]:
        """The names of the two curves."""

    @abstractmethod
    def curves(self, first: int, second: int) -> npt.NDArray[np.float64]:
        """``first`` points on the curve of class 0, then ``second`` on that of class 1: [first + second, 2]."""

    def spec(self) -> DataSpec:
        rest = self.examples - held_out(self.examples, self.test_fraction)
        return DataSpec(
            name=self.name,
            image_shape=(2, 1, 1),
            classes=self.classes(),
            train_examples=rest - held_out(rest, self.val_fraction),
        )

    def load(self) -> Splits:
        points, labels = self.draw()
        everything = Examples(points.astype(np.float32).reshape(-1, 2, 1, 1), labels)
        rest, test = stratified_split(everything, self.test_fraction, self.split_seed, part=0)
        train, val = stratified_split(rest, self.val_fraction, self.split_seed, part=1)
        return Splits(train, val, test, fingerprint(everything))

    def draw(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Points [n, 2] and labels [n]: scikit-learn's own, number for number, without 1.5 s of importing it."""
        random = np.random.RandomState(self.points_seed)
        first = self.examples // 2
        second = self.examples - first
        points, labels = self.curves(first, second), np.repeat(np.arange(2), [first, second])
        order = np.arange(self.examples)
        random.shuffle(order)
        points, labels = points[order], labels[order]
        if self.noise > 0:
            points = points + random.normal(scale=self.noise, size=points.shape)
        return points, labels.astype(np.int64)


@DATASETS.register("moons")
@dataclass(frozen=True)
class Moons(Points):
    """Two half circles that reach into each other (scikit-learn's ``make_moons``).

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    examples: points in all, ≥ 8.
    noise: standard deviation of the noise around the curves, whose radius is 1; ≥ 0.
    points_seed: seed of the points, from 0 to 2³² - 1; scikit-learn's ``random_state``.
    test_fraction: share of all points held out for the test, in (0, 1).
    """

    def classes(self) -> tuple[str, str]:
        return ("upper moon", "lower moon")

    def curves(self, first: int, second: int) -> npt.NDArray[np.float64]:
        upper, lower = np.linspace(0, math.pi, first), np.linspace(0, math.pi, second)
        return np.vstack(
            [
                np.append(np.cos(upper), 1 - np.cos(lower)),
                np.append(np.sin(upper), 1 - np.sin(lower) - 0.5),
            ]
        ).T


@DATASETS.register("circles")
@dataclass(frozen=True)
class Circles(Points):
    """A circle in a circle (scikit-learn's ``make_circles``).

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    examples: points in all, ≥ 8.
    noise: standard deviation of the noise around the circles, the outer one of radius 1; ≥ 0.
    points_seed: seed of the points, from 0 to 2³² - 1; scikit-learn's ``random_state``.
    test_fraction: share of all points held out for the test, in (0, 1).
    factor: radius of the inner circle, in [0, 1).
    """

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "factor", at_least=0, below=1)

    def classes(self) -> tuple[str, str]:
        return ("outer circle", "inner circle")

    def curves(self, first: int, second: int) -> npt.NDArray[np.float64]:
        outer, inner = (np.linspace(0, 2 * math.pi, count, endpoint=False) for count in (first, second))
        return np.vstack(
            [
                np.append(np.cos(outer), np.cos(inner) * self.factor),
                np.append(np.sin(outer), np.sin(inner) * self.factor),
            ]
        ).T
