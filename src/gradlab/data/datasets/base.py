"""The registry of datasets, what they share, and the split that keeps validation and test apart from training."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gradlab.bounds import check_number, check_option
from gradlab.data.spec import DataSpec
from gradlab.errors import DataError, FieldError
from gradlab.registry import Registry
from gradlab.seeds import derive


@dataclass(frozen=True)
class Examples:
    """Images uint8 [n, channels, height, width] and labels int64 [n], in memory.

    Points in a plane are float32 [n, 2, 1, 1].
    """

    images: npt.NDArray[np.uint8 | np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> "Examples":
        return Examples(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Splits:
    """A dataset as a run uses it. ``fingerprint`` is a SHA-256 over every image and label, in order."""

    train: Examples
    val: Examples
    test: Examples
    fingerprint: str


class Dataset(Protocol):
    """What every entry of ``DATASETS`` has. Its file needs numpy, not torch: data load while torch is imported."""

    @property
    def name(self) -> str: ...

    @property
    def batch_size(self) -> int | str: ...

    @property
    def class_weights(self) -> str: ...

    def fetch(self) -> None:
        """Download what is missing, where the configuration asks for it."""

    def spec(self) -> DataSpec:
        """Shape and counts, without reading an image; ``ConfigError`` where the files are not there."""

    def load(self) -> Splits:
        """Read, verify and split. ``DataError`` where a file is not what it should be."""


DATASETS: Registry[Dataset] = Registry("data")


@dataclass(frozen=True)
class Batched:
    """The fields of every dataset.

    batch_size: images in one optimizer step, ≥ 1, or ``full`` for all of them (plain batch gradient descent).
    val_fraction: share of the training images held out for validation, in (0, 1); stratified by class.
    split_seed: seed of that split, ≥ 0. Apart from the run's seed, so that all runs of a sweep share the split.
    class_weights: of the training loss; ``none``, or ``balanced`` to make every class count the same in all.
    """

    name: str
    batch_size: int | str
    val_fraction: float
    split_seed: int
    class_weights: str

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, str):
            if self.batch_size != "full":
                raise FieldError("batch_size", f"must be a whole number or 'full', not '{self.batch_size}'")
        else:
            check_number(self, "batch_size", at_least=1)
        check_number(self, "val_fraction", above=0, below=1)
        check_number(self, "split_seed", at_least=0)
        check_option(self, "class_weights", ["none", "balanced"])

    def fetch(self) -> None:
        """Nothing to fetch."""


def batch_examples(batch_size: int | str, train_examples: int) -> int:
    """The images in one batch: ``full`` is all of them, and no batch is larger than that."""
    return train_examples if isinstance(batch_size, str) else min(batch_size, train_examples)


def held_out(examples: int, fraction: float) -> int:
    """How many of ``examples`` images a fraction holds out: rounded, at least one, and one at least stays."""
    return min(max(1, round(examples * fraction)), examples - 1)


def stratified_split(examples: Examples, fraction: float, seed: int, part: int) -> tuple[Examples, Examples]:
    """Split into (kept, held out), each class by the same share; ``held_out`` images in all.

    Shares that do not divide are rounded by the largest remainder; a class of one image gives it away last, so that it
    can be learned. ``part`` names the split (0 test, 1 validation), so that one seed gives unrelated splits. Within each
    part the images keep their order.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(examples) < 2:
        raise DataError(f"{len(examples)} images cannot be split into two parts: each needs at least one.")
    wanted = held_out(len(examples), fraction)
    _, counts = np.unique(examples.labels, return_counts=True)
    shares = counts * (wanted / len(examples))
    takes = np.floor(shares).astype(np.int64)
    whole = takes == shares
    turn = np.where(whole, 2, np.where(counts == 1, 1, 0))
    takes[np.lexsort((takes - shares, turn))[: wanted - takes.sum()]] += 1
    random = np.random.default_rng(derive(seed, "split", part))
    chosen = np.zeros(len(examples), dtype=bool)
    by_class = np.split(np.argsort(examples.labels, kind="stable"), np.cumsum(counts)[:-1])
    for members, take in zip(by_class, takes, strict=True):
        chosen[random.permutation(members)[:take]] = True
    return examples.take(np.flatnonzero(~chosen)), examples.take(np.flatnonzero(chosen))


def fingerprint(*parts: Examples) -> str:
    """SHA-256 over shapes, images and labels of ``parts``, and over the type of images that are not uint8."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part.images.shape).encode())
        if part.images.dtype != np.uint8:
            digest.update(part.images.dtype.str.encode())
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(np.ascontiguousarray(part.labels).data)
    return digest.hexdigest()
