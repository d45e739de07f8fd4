"""How many images of each class there are, and weights that make up for it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradlab.data.datasets.base import Examples, Splits
from gradlab.errors import DataError

NOTICEABLE = 1.5
"""From this many times the images of the smallest class in the largest one, a run says so."""


@dataclass(frozen=True)
class ClassBalance:
    """The images of each class: ``train``, ``val`` and ``test`` are int64 [classes], in the order of ``classes``."""

    classes: tuple[str, ...]
    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]

    @classmethod
    def of(cls, splits: Splits, classes: tuple[str, ...]) -> "ClassBalance":
        parts = (splits.train, splits.val, splits.test)
        return cls(classes, *(np.bincount(part.labels, minlength=len(classes)) for part in parts))

    @property
    def ratio(self) -> float:
        """Training images of the largest class to one of the smallest; infinite where that has none."""
        return float(self.train.max() / self.train.min()) if self.train.min() > 0 else float("inf")

    def counts(self) -> dict[str, dict[str, int]]:
        """By split, then by name of the class."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {split: dict(zip(self.classes, part.tolist(), strict=True)) for split, part in parts.items()}

    def notice(self) -> str | None:
        """A sentence about classes that are imbalanced; None where they are not."""
        if self.ratio < NOTICEABLE:
            return None
        least, most = int(self.train.argmin()), int(self.train.argmax())
        return (
            f"imbalanced classes: {self.train[most]:,} training images of '{self.classes[most]}' and "
            f"{self.train[least]:,} of '{self.classes[least]}'"
        )


def balanced_weights(train: Examples, classes: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """A weight for each class, [classes]: n / (classes × images of the class), as scikit-learn's ``balanced``.

    Raises:
        DataError: a class has no image to train on.
    """
    counts = np.bincount(train.labels, minlength=len(classes))
    absent = [classes[label] for label in np.flatnonzero(counts == 0)]
    if absent:
        raise DataError(
            f"data.class_weights=balanced gives every class the same weight in all, and {len(absent)} of {len(classes)} "
            f"classes have no training image ('{absent[0]}' for one). Choose data.class_weights=none, a smaller "
            "data.val_fraction, or data with images of every class."
        )
    return len(train) / (len(classes) * counts)
