"""STL-10: coloured 96×96 photographs, few of them labelled."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradlab.data.datasets.base import DATASETS, Examples
from gradlab.data.datasets.published import Published
from gradlab.data.download import Download
from gradlab.data.files import Content, Piece, Place
from gradlab.errors import DataError

ARCHIVE = "stl10_binary.tar.gz"
CHECKSUMS = {
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}
"""MD5 of the files that are used, as torchvision has them."""


@DATASETS.register("stl10")
@dataclass(frozen=True)
class STL10(Published):
    """Photographs of ten kinds of animals and vehicles, 5,000 to train and 8,000 to test (Coates et al., 2011).

    https://cs.stanford.edu/~acoates/stl10. Its 100,000 unlabelled images are not used, but they fill the archive: reading
    from ``stl10_binary`` unpacked is quicker by far. Images are stored column by column, and labels begin at 1; here they
    are as everywhere.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds ``stl10_binary`` or ``stl10_binary.tar.gz``; a relative one is taken from the working
        directory.
    download: fetch the archive to there if neither is there, 2,640 MB.
    """

    image_shape: ClassVar = (3, 96, 96)
    train_examples: ClassVar = 5_000
    test_examples: ClassVar = 8_000
    downloads: ClassVar = (
        Download(
            ARCHIVE,
            2_640_397_119,
            "91f7769df0f17e558f3565bffb0c7dfb",
            (f"https://ai.stanford.edu/~acoates/stl10/{ARCHIVE}", f"https://cs.stanford.edu/~acoates/stl10/{ARCHIVE}"),
        ),
    )

    def classes(self) -> tuple[str, ...]:
        return ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

    def pieces(self) -> list[Piece]:
        pieces = []
        for name, md5 in CHECKSUMS.items():
            path = f"stl10_binary/{name}"
            pieces.append(Piece(name, (Place(path, content=md5), Place(ARCHIVE, path, md5, self.downloads[0].md5))))
        return pieces

    def examples(self, contents: list[Content]) -> tuple[Examples, Examples]:
        train_images, train_labels, test_images, test_labels = contents
        return (
            self._part(train_images, train_labels, self.train_examples),
            self._part(test_images, test_labels, self.test_examples),
        )

    def _part(self, images: Content, labels: Content, expected: int) -> Examples:
        pixels = np.frombuffer(images.data, np.uint8)
        if len(pixels) != expected * np.prod(self.image_shape):
            raise DataError(
                f"{images.where} is damaged: {len(pixels):,} bytes are not {expected:,} images of 3×96×96. Delete it and "
                "fetch it again."
            )
        upright = pixels.reshape(-1, *self.image_shape).transpose(0, 1, 3, 2)
        numbers = np.frombuffer(labels.data, np.uint8).astype(np.int64) - 1
        return self.labelled(upright, numbers, expected, labels.where)
