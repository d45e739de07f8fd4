"""What datasets share that are published as files, in the layout in which torchvision keeps them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradlab.data import files
from gradlab.data.datasets.base import Batched, Examples, Splits, fingerprint, held_out, stratified_split
from gradlab.data.download import Download, fetch
from gradlab.data.files import Content, Piece
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Published(Batched, ABC):
    """A dataset in files below ``root``, with a training and a test part of its own.

    A subclass says what the files are and reads them; the rest is here.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder of all datasets, in torchvision's layout; a relative one is taken from the working directory.
    download: fetch what is missing, over https.
    """

    root: str
    download: bool

    image_shape: ClassVar[tuple[int, int, int]]
    train_examples: ClassVar[int]
    test_examples: ClassVar[int]
    downloads: ClassVar[Sequence[Download]]

    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""

    @abstractmethod
    def pieces(self) -> list[Piece]:
        """The files that the dataset consists of."""

    @abstractmethod
    def examples(self, contents: list[Content]) -> tuple[Examples, Examples]:
        """Training and test images out of the contents of ``pieces``."""

    def size(self) -> tuple[int, int]:
        """How many training images, before validation is held out, and test images there are."""
        return self.train_examples, self.test_examples

    def spec(self) -> DataSpec:
        if not self.download:
            for piece in self.missing():
                raise ConfigError(self._is_missing(piece))
        train_examples, _ = self.size()
        return DataSpec(
            name=self.name,
            image_shape=self.image_shape,
            classes=self.classes(),
            train_examples=train_examples - held_out(train_examples, self.val_fraction),
        )

    def fetch(self) -> None:
        """Download the files that are missing, with ``download``; files that are there are left as they are."""
        if self.download:
            offered = {download.path: download for download in self.downloads}
            for piece in self.missing():
                if files.find(self.folder, piece) is None:  # an archive may have brought it with the one before
                    fetch(next(offered[place.path] for place in piece.places if place.path in offered), self.folder)

    def load(self) -> Splits:
        self.fetch()
        full, test = self.examples(files.read(self.folder, self.pieces()))
        train, val = stratified_split(full, self.val_fraction, self.split_seed, part=1)
        return Splits(train, val, test, fingerprint(full, test))

    @property
    def folder(self) -> Path:
        return Path(self.root).expanduser()

    def missing(self) -> list[Piece]:
        """The pieces that lie in none of their places."""
        return [piece for piece in self.pieces() if files.find(self.folder, piece) is None]

    def labelled(
        self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], expected: int, where: str
    ) -> Examples:
        """Images with their labels, which must be ``expected`` in number and of the classes that there are.

        Raises:
            DataError: they are not.
        """
        if images.shape != (expected, *self.image_shape) or labels.shape != (expected,):
            raise DataError(
                f"{where} does not hold {self.name}: it has images of {_by(images.shape)} and {_by(labels.shape)} labels, "
                f"not {_by((expected, *self.image_shape))} and {expected}. Delete it and fetch it again."
            )
        if labels.min() < 0 or labels.max() >= len(self.classes()):
            raise DataError(
                f"{where} does not hold {self.name}: its labels go from {labels.min()} to {labels.max()}, and there are "
                f"{len(self.classes())} classes. Delete it and fetch it again."
            )
        return Examples(np.ascontiguousarray(images), labels.astype(np.int64))

    def _is_missing(self, piece: Piece) -> str:
        names = dict.fromkeys(place.path for place in piece.places)
        first, *others = (f"'{Path(name).name}'" for name in names)
        folders = dict.fromkeys(str((self.folder / name).parent.absolute()) for name in names)
        layout = next(iter(names)).rpartition("/")[0]
        size = sum(download.size for download in self.downloads) / 1e6
        return (
            f"data={self.name} needs the file {first}{f' (or {_either(others)})' if others else ''}, and it is not in "
            f"{_either(list(folders))}. Name the folder that holds {layout or 'it'} with data.root=…, or add "
            f"data.download=true to fetch it there once ({size:,.3g} MB)."
        )


def _either(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
