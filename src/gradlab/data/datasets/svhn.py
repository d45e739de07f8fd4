"""SVHN: house numbers from street views, cut to single digits."""

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gradlab.data.datasets.base import DATASETS, Examples
from gradlab.data.datasets.published import Published
from gradlab.data.download import Download
from gradlab.data.files import Content, Piece, Place
from gradlab.errors import DataError

_ADDRESS = "https://ufldl.stanford.edu/housenumbers/"


@DATASETS.register("svhn")
@dataclass(frozen=True)
class SVHN(Published):
    """Digits of house numbers in colour, 32×32, 73,257 to train and 26,032 to test (Netzer et al., 2011).

    http://ufldl.stanford.edu/housenumbers. The classes are imbalanced: three times as many ones as nines. In its files
    (MATLAB's, version 5) the digit 0 has the label 10; here it has 0. The ``extra`` images are not used.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds ``train_32x32.mat`` and ``test_32x32.mat``; a relative one is taken from the working
        directory.
    download: fetch what is missing from there, 246 MB in two files.
    """

    image_shape: ClassVar = (3, 32, 32)
    train_examples: ClassVar = 73_257
    test_examples: ClassVar = 26_032
    downloads: ClassVar = (
        Download(
            "train_32x32.mat",
            182_040_794,
            "e26dedcc434d2e4c54c9b2d4a06d8373",
            (f"{_ADDRESS}train_32x32.mat",),
        ),
        Download(
            "test_32x32.mat",
            64_275_384,
            "eb5a983be6a315427106f1b164d9cef3",
            (f"{_ADDRESS}test_32x32.mat",),
        ),
    )

    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def pieces(self) -> list[Piece]:
        return [Piece(file.path, (Place(file.path, content=file.md5),)) for file in self.downloads]

    def examples(self, contents: list[Content]) -> tuple[Examples, Examples]:
        train, test = contents
        return self._part(train, self.train_examples), self._part(test, self.test_examples)

    def _part(self, content: Content, expected: int) -> Examples:
        from scipy.io import loadmat

        try:
            found: dict[str, Any] = loadmat(io.BytesIO(content.data), variable_names=["X", "y"])
            images, labels = found["X"], found["y"]
        except Exception as error:  # scipy raises whatever a damaged file makes it stumble over
            raise DataError(f"{content.where} is no MATLAB file of images X and labels y ({error}).") from error
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(f"{content.where} holds no images: X is {images.dtype} with {images.ndim} dimensions.")
        numbers = labels.reshape(-1).astype(np.int64)
        # [height, width, channels, n] in the file.
        return self.labelled(images.transpose(3, 2, 0, 1), np.where(numbers == 10, 0, numbers), expected, content.where)
