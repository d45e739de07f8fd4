"""The registry of datasets, what they share, and the split that keeps validation and test apart from training."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gradlab.bounds import check_number, check_option
from gradlab.data.moments import moments
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

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return self.images.shape[1:]

    @property
    def decoded_bytes(self) -> int:
        """What all images take in memory."""
        return len(self) * math.prod(self.image_shape) * self.images.itemsize

    def take(self, indices: npt.NDArray[np.int64]) -> "Examples":
        return Examples(self.images[indices], self.labels[indices])

    def at(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8 | np.float32]:
        """The images at ``indices``, and no others: [indices, channels, height, width]."""
        return self.images[indices]

    def moments(self) -> npt.NDArray[np.int64]:
        """``moments`` over all images, which must be bytes."""
        some = max(1, (1 << 20) // max(1, math.prod(self.image_shape)))
        pixels = self.images.view(np.uint8)
        parts = [moments(pixels[first : first + some]) for first in range(0, len(self), some)]
        total: npt.NDArray[np.int64] = np.stack(parts).sum(axis=0)
        return total


class Reader(Protocol):
    """Where the images of ``StreamedExamples`` come from."""

    def at(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The images in ``rows``, [rows, channels, height, width]."""


class StreamedExamples(Examples):
    """Images that stay in their files, and are decoded where they are wanted. ``images`` decodes all of them at once.

    Args:
        reader: decodes images by row; goes to other processes.
        rows: the row of each image, int64 [n].
        labels: int64 [n].
        shape: (channels, height, width).
        of_each: the ``moments`` of each image, int64 [n, 2, channels].
        workers: processes that decode while a run trains, ≥ 1.
    """

    def __init__(
        self,
        reader: Reader,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        shape: tuple[int, int, int],
        of_each: npt.NDArray[np.int64],
        workers: int,
    ) -> None:
        vars(self).update(
            reader=reader, rows=rows, labels=labels, shape=shape, of_each=of_each, workers=workers
        )  # as a frozen dataclass does it

    reader: Reader
    rows: npt.NDArray[np.int64]
    shape: tuple[int, int, int]
    of_each: npt.NDArray[np.int64]
    workers: int

    def __repr__(self) -> str:
        return f"StreamedExamples({len(self)} of {self.shape})"

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        return self.at(np.arange(len(self)))

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def decoded_bytes(self) -> int:
        return len(self) * math.prod(self.shape)

    def take(self, indices: npt.NDArray[np.int64]) -> "StreamedExamples":
        chosen = self.rows[indices], self.labels[indices], self.shape, self.of_each[indices]
        return StreamedExamples(self.reader, *chosen, self.workers)

    def at(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self.reader.at(self.rows[indices])

    def moments(self) -> npt.NDArray[np.int64]:
        total: npt.NDArray[np.int64] = self.of_each.sum(axis=0)
        return total


@dataclass(frozen=True)
class Splits:
    """A dataset as a run uses it.

    fingerprint: SHA-256 over every image and label, in order.
    skipped: files that were to be images and are left out, each with the reason.
    remark: what else the user should know of the files, in one line; or nothing.
    device_share: the share of a GPU's free memory that the images may take; beyond it they are streamed to it.
    """

    train: Examples
    val: Examples
    test: Examples
    fingerprint: str
    skipped: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    device_share: float = 0.8


class Dataset(Protocol):
    """What every entry of ``DATASETS`` has. Its file needs numpy, not torch: data load while torch is imported."""

    @property
    def name(self) -> str: ...

    @property
    def batch_size(self) -> int | str: ...

    @property
    def class_weights(self) -> str: ...

    @property
    def normalization(self) -> str: ...

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
    normalization: of what the network sees; ``standard``: each channel has mean 0 and standard deviation 1 over the training
        images; or ``none``: pixels from 0 to 1, points in a plane as they are.
    """

    name: str
    batch_size: int | str
    val_fraction: float
    split_seed: int
    class_weights: str
    normalization: str

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, str):
            if self.batch_size != "full":
                raise FieldError("batch_size", f"must be a whole number or 'full', not '{self.batch_size}'")
        else:
            check_number(self, "batch_size", at_least=1)
        check_number(self, "val_fraction", above=0, below=1)
        check_number(self, "split_seed", at_least=0)
        check_option(self, "class_weights", ["none", "balanced"])
        check_option(self, "normalization", ["standard", "none"])

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
    kept, out = stratified_indices(examples.labels, fraction, seed, part)
    return examples.take(kept), examples.take(out)


def stratified_indices(
    labels: npt.NDArray[np.int64], fraction: float, seed: int, part: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``stratified_split`` as indices into ``labels``, each part's in order."""
    if len(labels) < 2:
        raise DataError(f"{len(labels)} images cannot be split into two parts: each needs at least one.")
    wanted = held_out(len(labels), fraction)
    _, counts = np.unique(labels, return_counts=True)
    shares = counts * (wanted / len(labels))
    takes = np.floor(shares).astype(np.int64)
    whole = takes == shares
    turn = np.where(whole, 2, np.where(counts == 1, 1, 0))
    takes[np.lexsort((takes - shares, turn))[: wanted - takes.sum()]] += 1
    random = np.random.default_rng(derive(seed, "split", part))
    chosen = np.zeros(len(labels), dtype=bool)
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    for members, take in zip(by_class, takes, strict=True):
        chosen[random.permutation(members)[:take]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


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
