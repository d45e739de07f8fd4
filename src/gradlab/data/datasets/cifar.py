"""CIFAR-10 and CIFAR-100: 60,000 coloured 32×32 photographs, from their binary files or from torchvision's pickles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradlab.bounds import check_option
from gradlab.data.datasets.base import DATASETS, Examples
from gradlab.data.datasets.published import Published
from gradlab.data.download import Download
from gradlab.data.files import Content, Piece, Place
from gradlab.data.pickles import dictionary_of_arrays
from gradlab.errors import DataError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Batch:
    """One of the files that a CIFAR is cut into, as the two versions have it.

    images: how many it holds.
    sha256: of the binary file.
    md5: of the pickled file.
    """

    binary: str
    sha256: str
    pickled: str
    md5: str
    images: int


@dataclass(frozen=True)
class CIFAR(Published):
    """What both sets share: how their files are found and read."""

    image_shape: ClassVar = (3, 32, 32)
    train_examples: ClassVar = 50_000
    test_examples: ClassVar = 10_000
    batches: ClassVar[Sequence[Batch]]
    """The training files and, last, the test file."""
    binary_folder: ClassVar[str]
    pickled_folder: ClassVar[str]
    pickled_archive: ClassVar[str]
    pickled_archive_md5: ClassVar[str]
    label_bytes: ClassVar[int]
    """Labels before each image of a binary file."""

    def label_byte(self) -> int:
        """Which of the labels before an image is ours."""
        return 0

    def label_key(self) -> str:
        """The name of our labels in a pickle."""
        return "labels"

    def pieces(self) -> list[Piece]:
        (archive,) = self.downloads
        pieces = []
        for batch in self.batches:
            binary, pickled = f"{self.binary_folder}/{batch.binary}", f"{self.pickled_folder}/{batch.pickled}"
            places = (
                Place(binary, content=batch.sha256),
                Place(archive.path, binary, batch.sha256, archive.md5),
                Place(pickled, content=batch.md5),
                Place(self.pickled_archive, pickled, batch.md5, self.pickled_archive_md5),
            )
            pieces.append(Piece(batch.binary, places))
        return pieces

    def examples(self, contents: list[Content]) -> tuple[Examples, Examples]:
        parts = [self._part(content, batch.images) for content, batch in zip(contents, self.batches, strict=True)]
        images, labels = (np.concatenate([part[column] for part in parts[:-1]]) for column in (0, 1))
        return (
            self.labelled(images, labels, self.train_examples, contents[0].where),
            self.labelled(*parts[-1], self.test_examples, contents[-1].where),
        )

    def _part(self, content: Content, images: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Pixels [images, 3, 32, 32] and labels [images] of one file."""
        if (content.place.member or content.place.path).endswith(".bin"):
            pixels, labels = self._binary(content, images)
        else:
            pixels, labels = self._pickled(content, images)
        return pixels.reshape(-1, *self.image_shape), labels

    def _binary(self, content: Content, images: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Records of one or two labels, each a byte, and of the image's red, then green, then blue bytes, row by row."""
        width = self.label_bytes + PIXELS
        if len(content.data) != images * width:
            raise DataError(
                f"{content.where} is damaged: {len(content.data):,} bytes are not {images:,} images of {width:,}. "
                "Delete it and fetch it again."
            )
        records = np.frombuffer(content.data, np.uint8).reshape(images, width)
        return records[:, self.label_bytes :], records[:, self.label_byte()].astype(np.int64)

    def _pickled(self, content: Content, images: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """A dictionary of ``data``, an array [images, 3072] of the same order of bytes, and of lists of labels."""
        found = dictionary_of_arrays(content)
        pixels, labels = found.get("data"), found.get(self.label_key())
        right = (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.shape == (images, PIXELS)
            and isinstance(labels, list)
            and len(labels) == images
            and all(type(label) is int for label in labels)
        )
        if not right:
            raise DataError(
                f"{content.where} is damaged: it must hold 'data', {images:,} images of {PIXELS:,} bytes, and as many "
                f"'{self.label_key()}'. Delete it and fetch it again."
            )
        assert isinstance(pixels, np.ndarray)
        return pixels, np.array(labels, dtype=np.int64)


@DATASETS.register("cifar10")
@dataclass(frozen=True)
class CIFAR10(CIFAR):
    """Photographs of ten kinds of animals and vehicles, 50,000 to train and 10,000 to test (Krizhevsky, 2009).

    https://www.cs.toronto.edu/~kriz/cifar.html. Read from ``cifar-10-batches-bin`` or ``cifar-10-binary.tar.gz``, else
    from torchvision's ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz``: the same images in the same order. Those
    are pickles, whose checksums are compared before a reader that knows nothing but arrays of numbers opens them.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds one of those; a relative one is taken from the working directory.
    download: fetch ``cifar-10-binary.tar.gz`` to there if none is there, 170 MB.
    """

    batches: ClassVar[Sequence[Batch]] = (
        # SHA-256 of the binary files as torchvision's Ruby port has them, MD5 of the pickles as torchvision has them.
        Batch(
            "data_batch_1.bin",
            "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_1",
            "c99cafc152244af753f735de768cd75f",
            10_000,
        ),
        Batch(
            "data_batch_2.bin",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_2",
            "d4bba439e000b95fd0a9bffe97cbabec",
            10_000,
        ),
        Batch(
            "data_batch_3.bin",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_3",
            "54ebc095f3ab1f0389bbae665268c751",
            10_000,
        ),
        Batch(
            "data_batch_4.bin",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_4",
            "634d18415352ddfa80567beed471001a",
            10_000,
        ),
        Batch(
            "data_batch_5.bin",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "data_batch_5",
            "482c414d41f54cd18b22e5b47cb7c3cb",
            10_000,
        ),
        Batch(
            "test_batch.bin",
            "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            "test_batch",
            "40351d587109b95175f43aff81a1287e",
            10_000,
        ),
    )
    binary_folder: ClassVar = "cifar-10-batches-bin"
    pickled_folder: ClassVar = "cifar-10-batches-py"
    pickled_archive: ClassVar = "cifar-10-python.tar.gz"
    pickled_archive_md5: ClassVar = "c58f30108f718f92721af3b95e74349a"
    label_bytes: ClassVar = 1
    downloads: ClassVar = (
        Download(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c32a1d4ab5d03f1284b67883e8d87530",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        ),
    )

    def classes(self) -> tuple[str, ...]:
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@DATASETS.register("cifar100")
@dataclass(frozen=True)
class CIFAR100(CIFAR):
    """Photographs of a hundred kinds of things in twenty groups, 50,000 to train and 10,000 to test (Krizhevsky, 2009).

    https://www.cs.toronto.edu/~kriz/cifar.html. Read from ``cifar-100-binary`` or ``cifar-100-binary.tar.gz``, else from
    torchvision's ``cifar-100-python`` or ``cifar-100-python.tar.gz``: the same images in the same order. Those are
    pickles, whose checksums are compared before a reader that knows nothing but arrays of numbers opens them.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds one of those; a relative one is taken from the working directory.
    download: fetch ``cifar-100-binary.tar.gz`` to there if none is there, 169 MB.
    labels: ``fine`` for the 100 kinds, ``coarse`` for the 20 groups.
    """

    labels: str

    batches: ClassVar[Sequence[Batch]] = (
        Batch(
            "train.bin",
            "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "train",
            "16019d7e3df5f24257cddd939b257f8d",
            50_000,
        ),
        Batch(
            "test.bin",
            "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
            "test",
            "f0ef6b0ae62326f3e7ffdfab6717acfc",
            10_000,
        ),
    )
    binary_folder: ClassVar = "cifar-100-binary"
    pickled_folder: ClassVar = "cifar-100-python"
    pickled_archive: ClassVar = "cifar-100-python.tar.gz"
    pickled_archive_md5: ClassVar = "eb9058c3a382ffc7106e4002c42a8d85"
    label_bytes: ClassVar = 2
    downloads: ClassVar = (
        Download(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "03b5dce01913d631647c71ecec9e9cb8",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self, "labels", ["fine", "coarse"])

    def classes(self) -> tuple[str, ...]:
        return tuple((_FINE if self.labels == "fine" else _COARSE).split())

    def label_byte(self) -> int:
        return 1 if self.labels == "fine" else 0

    def label_key(self) -> str:
        return f"{self.labels}_labels"


_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
    bowl boy bridge bus butterfly camel can castle caterpillar cattle
    chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

_COARSE = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores large_man-made_outdoor_things
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people
    reptiles small_mammals trees vehicles_1 vehicles_2
"""
