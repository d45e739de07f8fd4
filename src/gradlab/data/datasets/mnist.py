"""MNIST and the two sets that come in its very form: Fashion-MNIST and Kuzushiji-MNIST."""

from dataclasses import dataclass
from typing import ClassVar

from gradlab.data.datasets.base import DATASETS, Examples
from gradlab.data.datasets.published import Published
from gradlab.data.download import Download
from gradlab.data.files import Content, Piece, Place
from gradlab.data.idx import parse

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# MD5 of MNIST's unpacked files, as its mirrors publish them.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _downloads(folder: str, mirrors: tuple[str, ...], sizes_and_md5s: list[tuple[int, str]]) -> tuple[Download, ...]:
    return tuple(
        Download(f"{folder}/{name}.gz", size, md5, tuple(f"{mirror}{name}.gz" for mirror in mirrors))
        for name, (size, md5) in zip(NAMES, sizes_and_md5s, strict=True)
    )


@dataclass(frozen=True)
class FourFiles(Published):
    """Grey images of 28×28 in four IDX files, plain or packed by gzip."""

    image_shape: ClassVar = (1, 28, 28)
    train_examples: ClassVar = 60_000
    test_examples: ClassVar = 10_000

    def pieces(self) -> list[Piece]:
        # Only packed are these files published, and their checksums with them; so the packed one is the first choice.
        return [
            Piece(download.path, (Place(download.path, file=download.md5), Place(download.path.removesuffix(".gz"))))
            for download in self.downloads
        ]

    def examples(self, contents: list[Content]) -> tuple[Examples, Examples]:
        train_images, train_labels, test_images, test_labels = contents
        return (
            self.part(train_images, train_labels, self.train_examples),
            self.part(test_images, test_labels, self.test_examples),
        )

    def part(self, images: Content, labels: Content, expected: int) -> Examples:
        pixels = parse(images, (expected, *self.image_shape[1:]))
        return self.labelled(pixels[:, None], parse(labels, (expected,)), expected, labels.where)


@DATASETS.register("mnist")
@dataclass(frozen=True)
class MNIST(FourFiles):
    """Handwritten digits, 60,000 to train and 10,000 to test, grey 28×28 (LeCun et al., 1998).

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds ``MNIST/raw``; a relative one is taken from the working directory.
    download: fetch what is missing from there, 12 MB in four packed files.
    """

    downloads: ClassVar = _downloads(
        "MNIST/raw",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        [
            (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
    )

    def classes(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def pieces(self) -> list[Piece]:
        pieces = []
        for download, name in zip(self.downloads, NAMES, strict=True):
            plain = Place(download.path.removesuffix(".gz"), content=CHECKSUMS[name])
            pieces.append(Piece(name, (plain, Place(download.path, content=CHECKSUMS[name], file=download.md5))))
        return pieces


@DATASETS.register("fashion_mnist")
@dataclass(frozen=True)
class FashionMNIST(FourFiles):
    """Zalando's articles of clothing in MNIST's form (Xiao et al., 2017, https://arxiv.org/abs/1708.07747).

    The packed files are verified by their checksums; for unpacked ones nobody publishes any, so they are read only where
    there is no packed one, and then held against what sizes, headers and labels must be.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds ``FashionMNIST/raw``; a relative one is taken from the working directory.
    download: fetch what is missing from there, 31 MB in four packed files.
    """

    downloads: ClassVar = _downloads(
        "FashionMNIST/raw",
        (
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",  # torchvision's mirror, which has no https itself
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        [
            (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ],
    )

    def classes(self) -> tuple[str, ...]:
        return (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )


@DATASETS.register("kmnist")
@dataclass(frozen=True)
class KMNIST(FourFiles):
    """Cursive Japanese characters in MNIST's form (Clanuwat et al., 2018, https://arxiv.org/abs/1812.01718).

    A class is one of ten hiragana, named by how it is read: o き and so on would need fonts that few machines have.
    The packed files are verified by their checksums; for unpacked ones nobody publishes any, so they are read only where
    there is no packed one, and then held against what sizes, headers and labels must be.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    root: the folder that holds ``KMNIST/raw``; a relative one is taken from the working directory.
    download: fetch what is missing from there, 21 MB in four packed files.
    """

    downloads: ClassVar = _downloads(
        "KMNIST/raw",
        ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        [
            (18_165_135, "bdb82020997e1d708af4cf47b453dcf7"),
            (29_497, "e144d726b3acfaa3e44228e80efcd344"),
            (3_041_136, "5c965bf0a639b31b8f53240b1b52f4d7"),
            (5_120, "7320c461ea6c1c855c0b718fb2a4b134"),
        ],
    )

    def classes(self) -> tuple[str, ...]:
        return ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
