"""EMNIST: handwritten letters and digits in MNIST's form, six ways of cutting one collection."""

import string
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradlab.bounds import check_option
from gradlab.data.datasets.base import DATASETS, Examples
from gradlab.data.datasets.published import Published
from gradlab.data.download import Download
from gradlab.data.files import Content, Piece, Place
from gradlab.data.idx import parse

# Of the lower-case letters, those that ``bymerge`` and ``balanced`` keep apart from their capitals.
_UNLIKE_THEIR_CAPITALS = "abdefghnqrt"
_CLASSES = {
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": string.digits + string.ascii_uppercase + _UNLIKE_THEIR_CAPITALS,
    "balanced": string.digits + string.ascii_uppercase + _UNLIKE_THEIR_CAPITALS,
    "letters": string.ascii_lowercase,
    "digits": string.digits,
    "mnist": string.digits,
}
SIZES = {
    "byclass": (697_932, 116_323),
    "bymerge": (697_932, 116_323),
    "balanced": (112_800, 18_800),
    "letters": (124_800, 20_800),
    "digits": (240_000, 40_000),
    "mnist": (60_000, 10_000),
}
"""Training and test images of each split, as in NIST's files. The paper gives fewer for ``letters``."""
ZIP = "EMNIST/raw/gzip.zip"
FIRST_LABEL = {"letters": 1}


@DATASETS.register("emnist")
@dataclass(frozen=True)
class EMNIST(Published):
    """Letters and digits of NIST's forms, grey 28×28 (Cohen et al., 2017, https://arxiv.org/abs/1702.05373).

    Its files hold every image transposed, and torchvision leaves it so; here images stand upright, as MNIST's do. The
    labels of ``letters`` begin at 1 in the file and at 0 here. The zip archive is verified by its checksum (MD5); for
    unpacked files nobody publishes any, so they are read only where there is no archive, and then held against what
    sizes, headers and labels must be.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds ``EMNIST/raw``; a relative one is taken from the working directory.
    download: fetch the one archive of all splits from there if its files are missing, 562 MB.
    split: ``balanced`` (47 classes of 2,800), ``byclass`` (62, as often as they are written), ``bymerge`` (47: letters
        whose capitals look alike are one), ``letters`` (26, capitals and small ones alike), ``digits`` or ``mnist`` (10).
    """

    split: str

    image_shape: ClassVar = (1, 28, 28)
    downloads: ClassVar = (
        Download(
            ZIP,
            561_753_746,
            "58c8d27c78d21e728a6bc7b3cc06412e",
            ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self, "split", _CLASSES)

    def classes(self) -> tuple[str, ...]:
        return tuple(_CLASSES[self.split])

    def size(self) -> tuple[int, int]:
        return SIZES[self.split]

    def pieces(self) -> list[Piece]:
        (whole,) = self.downloads
        pieces = []
        for part in ("train", "test"):
            for kind in ("images-idx3", "labels-idx1"):
                name = f"emnist-{self.split}-{part}-{kind}-ubyte"
                zipped = Place(ZIP, member=f"gzip/{name}.gz", file=whole.md5)
                pieces.append(Piece(name, (zipped, Place(f"EMNIST/raw/{name}"), Place(f"EMNIST/raw/{name}.gz"))))
        return pieces

    def examples(self, contents: list[Content]) -> tuple[Examples, Examples]:
        train_images, train_labels, test_images, test_labels = contents
        train_examples, test_examples = self.size()
        return (
            self._part(train_images, train_labels, train_examples),
            self._part(test_images, test_labels, test_examples),
        )

    def _part(self, images: Content, labels: Content, expected: int) -> Examples:
        pixels = parse(images, (expected, *self.image_shape[1:])).transpose(0, 2, 1)
        numbers = parse(labels, (expected,)).astype(np.int64) - FIRST_LABEL.get(self.split, 0)
        return self.labelled(pixels[:, None], numbers, expected, labels.where)
