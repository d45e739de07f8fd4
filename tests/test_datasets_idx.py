"""MNIST and its kin, read from small files of the real format whose checksums and sizes count as the real ones."""

import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradlab.data.datasets import emnist as emnist_module
from gradlab.data.datasets.base import Examples
from gradlab.data.datasets.emnist import EMNIST
from gradlab.data.datasets.mnist import CHECKSUMS, KMNIST, MNIST, NAMES, FashionMNIST, FourFiles
from gradlab.data.device import Normalization
from gradlab.data.download import Download
from gradlab.errors import ConfigError, DataError, FieldError

IMAGES, LABELS = NAMES[:2]
TRAIN, TEST = 40, 20
Kind = type[MNIST] | type[FashionMNIST] | type[KMNIST]
NUMBERS: dict[str, Any] = {
    "batch_size": 64, "val_fraction": 0.1, "split_seed": 0, "class_weights": "none", "normalization": "standard",
}  # fmt: skip
FOLDERS: dict[Any, str] = {MNIST: "MNIST", FashionMNIST: "FashionMNIST", KMNIST: "KMNIST"}
KINDS: list[Kind] = list(FOLDERS)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(values: npt.NDArray[np.uint8]) -> bytes:
    """An IDX file: two zeros, 8 for bytes, the number of dimensions; each size in four bytes, the largest first."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.tobytes()


def small_set(classes: int = 10, first: int = 0) -> list[npt.NDArray[np.uint8]]:
    """Training images and labels, test images and labels."""
    random = np.random.default_rng(0)
    arrays = []
    for count in (TRAIN, TEST):
        arrays.append(random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        arrays.append((np.arange(count) % classes + first).astype(np.uint8))
    return arrays


def four_files(kind: Kind, root: Path, download: bool = False) -> FourFiles:
    return kind("small", **NUMBERS, root=str(root), download=download)


Make = Callable[..., FourFiles]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A set of 40 and 20 images below ``tmp_path``; its checksums count as the real set's during the test."""

    def make(kind: Kind, packed: bool) -> FourFiles:
        folder = tmp_path / FOLDERS[kind] / "raw"
        folder.mkdir(parents=True)
        downloads = []
        for name, values in zip(NAMES, small_set(), strict=True):
            content = idx(values)
            archive = gzip.compress(content, mtime=0)
            monkeypatch.setitem(CHECKSUMS, name, md5(content))
            downloads.append(Download(f"{FOLDERS[kind]}/raw/{name}.gz", len(archive), md5(archive), ()))
            (folder / (f"{name}.gz" if packed else name)).write_bytes(archive if packed else content)
        monkeypatch.setattr(kind, "downloads", tuple(downloads))
        monkeypatch.setattr(kind, "train_examples", TRAIN)
        monkeypatch.setattr(kind, "test_examples", TEST)
        return four_files(kind, tmp_path)

    return make


def file_of(chosen: FourFiles, name: str) -> Path:
    return Path(chosen.root) / FOLDERS[type(chosen)] / "raw" / name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_packed_files_are_read(small: Make, kind: Kind, packed: bool) -> None:
    chosen = small(kind, packed)
    splits, (train_images, train_labels, test_images, test_labels) = chosen.load(), small_set()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [36, 4, 20]
    assert chosen.spec().train_examples == 36
    assert np.array_equal(splits.test.images[:, 0], test_images)
    assert splits.test.labels.tolist() == test_labels.tolist()
    of_image = {image.tobytes(): label for image, label in zip(train_images, train_labels, strict=True)}
    for part in (splits.train, splits.val):
        assert [of_image.pop(image.tobytes()) for image in part.images] == part.labels.tolist()
    assert not of_image


@pytest.mark.parametrize("kind", KINDS)
def test_the_arrays_are_ready_for_torch(small: Make, kind: Kind) -> None:
    splits = small(kind, True).load()
    for part in (splits.train, splits.val, splits.test):
        assert (part.images.dtype.name, part.labels.dtype.name) == ("uint8", "int64")
        assert part.images.flags.writeable  # torch warns of arrays that are not
        assert part.labels.flags.writeable


def test_every_set_names_its_classes() -> None:
    names = {kind: kind("small", **NUMBERS, root="", download=True).spec().classes for kind in KINDS}
    assert names[MNIST] == tuple("0123456789")
    assert names[FashionMNIST][:3] + names[FashionMNIST][-1:] == ("T-shirt/top", "Trouser", "Pullover", "Ankle boot")
    assert names[KMNIST] == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    from torchvision import datasets

    assert list(names[FashionMNIST]) == datasets.FashionMNIST.classes
    assert list(names[KMNIST]) == datasets.KMNIST.classes


def test_checksums_and_names_are_torchvisions() -> None:
    from torchvision import datasets

    for kind, theirs in ((MNIST, datasets.MNIST), (FashionMNIST, datasets.FashionMNIST), (KMNIST, datasets.KMNIST)):
        assert [(Path(file.path).name, file.md5) for file in kind.downloads] == theirs.resources
        assert {Path(file.path).parent.as_posix() for file in kind.downloads} == {f"{theirs.__name__}/raw"}
    assert EMNIST.downloads[0].md5 == datasets.EMNIST.md5
    assert EMNIST.downloads[0].addresses == (datasets.EMNIST.url,)


# ------------------------------------------------------------------------- damage

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "garbage": lambda content: b"<html>404</html>" * 10,
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "one flipped byte": lambda content: flipped(content, len(content) // 2),
    "one flipped byte in the header": lambda content: flipped(content, 3),
}


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES.keys())
def test_a_damaged_plain_file_is_named_with_both_checksums(small: Make, name: str, damage: str) -> None:
    chosen = small(MNIST, False)
    file = file_of(chosen, name)
    content = DAMAGES[damage](file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), md5(content), CHECKSUMS[name]):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES.keys())
def test_a_damaged_packed_file_is_named_with_both_checksums(small: Make, kind: Kind, name: str, damage: str) -> None:
    chosen = small(kind, True)
    file = file_of(chosen, f"{name}.gz")
    published = md5(file.read_bytes())
    content = DAMAGES[damage](file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        chosen.load()
    if (
        kind is MNIST and damage == "empty"
    ):  # nothing is unpacked to nothing without complaint; MNIST's content is known
        published = CHECKSUMS[name]
    for part in (str(file), md5(content), published, "fetch it again"):
        assert part in str(caught.value)


def test_a_packed_file_of_other_content_is_named_with_both_checksums(small: Make) -> None:
    chosen = small(MNIST, True)
    file = file_of(chosen, f"{LABELS}.gz")
    content = flipped(gzip.decompress(file.read_bytes()), 20)
    file.write_bytes(gzip.compress(content))
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), md5(content), CHECKSUMS[LABELS]):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_file_cut_anywhere_is_noticed(small: Make, kind: Kind) -> None:
    chosen = small(kind, True)
    file = file_of(chosen, f"{LABELS}.gz")
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError):
            chosen.load()


@pytest.mark.parametrize("kind", [FashionMNIST, KMNIST])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage", ["empty", "garbage", "cut in the middle", "cut by a byte", "one flipped byte in the header"]
)
def test_a_plain_file_without_a_checksum_must_have_its_form(small: Make, kind: Kind, name: str, damage: str) -> None:
    chosen = small(kind, False)
    file = file_of(chosen, name)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(DataError) as caught:
        chosen.load()
    assert str(file) in str(caught.value)


def test_a_label_that_is_no_class_is_noticed(small: Make) -> None:
    chosen = small(FashionMNIST, False)
    file = file_of(chosen, LABELS)
    file.write_bytes(file.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match="labels go from 0 to 10, and there are 10 classes"):
        chosen.load()


def test_a_verified_packed_file_is_preferred_to_a_plain_one_without_a_checksum(small: Make) -> None:
    chosen = small(KMNIST, True)
    file_of(chosen, IMAGES).write_bytes(b"anything")
    assert len(chosen.load().test) == TEST


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_before_anything_is_read(small: Make, kind: Kind, name: str) -> None:
    chosen = small(kind, False)
    file_of(chosen, name).unlink()
    with pytest.raises(ConfigError) as caught:
        chosen.spec()
    for part in (f"'{name}'", f"'{name}.gz'", str(file_of(chosen, name).parent), "data.root=", "data.download=true"):
        assert part in str(caught.value)


def test_what_will_be_downloaded_need_not_be_there(tmp_path: Path) -> None:
    for kind in KINDS:
        assert four_files(kind, tmp_path, download=True).spec().train_examples == 54_000


# ---------------------------------------------------------------------- real MNIST


def test_the_real_mnist_has_its_sizes_and_statistics(real_mnist: Path) -> None:
    chosen = four_files(MNIST, real_mnist)
    splits = chosen.load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [54_000, 6_000, 10_000]
    assert chosen.spec().train_examples == 54_000
    every = np.concatenate([splits.train.labels, splits.val.labels])
    assert np.bincount(every).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(splits.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    shares = np.bincount(splits.val.labels) / np.bincount(every)
    assert abs(shares - 0.1).max() < 1 / 5421
    # The published 0.1307 and 0.3081 are those of all 60,000 training images.
    everything = Examples(np.concatenate([splits.train.images, splits.val.images]), every)
    found = Normalization.of(everything)
    assert found.mean.item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert found.std.item() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_one_flipped_byte_of_the_real_mnist_is_noticed(real_mnist: Path, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in NAMES:
        packed = real_mnist / "MNIST" / "raw" / f"{name}.gz"
        if not packed.is_file():
            pytest.skip(f"needs {packed}")
        (folder / packed.name).symlink_to(packed)
    name = "t10k-labels-idx1-ubyte"
    content = gzip.decompress((folder / f"{name}.gz").read_bytes())
    (folder / name).write_bytes(content)
    assert four_files(MNIST, tmp_path).load().test.labels.tolist() == list(content[8:])
    (folder / name).write_bytes(flipped(content, 5000))
    with pytest.raises(DataError) as caught:
        four_files(MNIST, tmp_path).load()
    assert CHECKSUMS[name] in str(caught.value)


# -------------------------------------------------------------------------- EMNIST

CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}


def emnist(root: Path, split: str, download: bool = False) -> EMNIST:
    return EMNIST("emnist", **NUMBERS, root=str(root), download=download, split=split)


MakeEMNIST = Callable[[str, str], EMNIST]


@pytest.fixture
def small_emnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeEMNIST:
    """One split of EMNIST with 40 and 20 images: in NIST's ``zip``, or its files ``plain`` or ``packed``."""

    def make(split: str, form: str) -> EMNIST:
        folder = tmp_path / "EMNIST" / "raw"
        folder.mkdir(parents=True)
        arrays = small_set(CLASSES[split], first=1 if split == "letters" else 0)
        kinds = ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
        contents = {f"emnist-{split}-{kind}-ubyte": idx(values) for kind, values in zip(kinds, arrays, strict=True)}
        if form == "zip":
            with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
                archive.writestr("gzip/emnist-other-mapping.txt", "0 48\n")
                for name, content in contents.items():
                    archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
            whole = (folder / "gzip.zip").read_bytes()
            (download,) = EMNIST.downloads
            small = Download(download.path, len(whole), md5(whole), download.addresses)
            monkeypatch.setattr(EMNIST, "downloads", (small,))
        else:
            for name, content in contents.items():
                (folder / (name if form == "plain" else f"{name}.gz")).write_bytes(
                    content if form == "plain" else gzip.compress(content)
                )
        monkeypatch.setitem(emnist_module.SIZES, split, (TRAIN, TEST))
        return emnist(tmp_path, split)

    return make


@pytest.mark.parametrize("split", CLASSES)
def test_emnist_stands_upright_and_its_labels_begin_at_zero(small_emnist: MakeEMNIST, split: str) -> None:
    chosen = small_emnist(split, "zip")
    splits = chosen.load()
    _, _, test_images, _ = small_set()
    assert np.array_equal(splits.test.images[:, 0], test_images.transpose(0, 2, 1))
    assert splits.test.images.flags.c_contiguous
    assert splits.test.labels.tolist() == [number % CLASSES[split] for number in range(TEST)]
    assert len(splits.train) == chosen.spec().train_examples == 36


def test_emnist_is_the_same_from_its_zip_and_from_files(small_emnist: MakeEMNIST, tmp_path: Path) -> None:
    told = small_emnist("letters", "zip").load().fingerprint
    for form in ("plain", "packed"):
        for file in (tmp_path / "EMNIST" / "raw").iterdir():
            file.unlink()
        (tmp_path / "EMNIST" / "raw").rmdir()
        assert small_emnist("letters", form).load().fingerprint == told


def test_emnists_classes_are_torchvisions() -> None:
    from torchvision import datasets

    for split, classes in datasets.EMNIST.classes_split_dict.items():
        ours = emnist(Path(), split, download=True).spec().classes
        assert len(ours) == CLASSES[split]
        assert list(ours) == [name for name in classes if name != "N/A"]  # torchvision has a class 0 without letters


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut in the middle", "one flipped byte"])
def test_a_damaged_zip_is_named_with_both_checksums(small_emnist: MakeEMNIST, damage: str) -> None:
    chosen = small_emnist("digits", "zip")
    file = Path(chosen.root) / "EMNIST" / "raw" / "gzip.zip"
    published = md5(file.read_bytes())
    content = DAMAGES[damage](file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), md5(content), published):
        assert part in str(caught.value)


def test_a_missing_zip_and_a_wrong_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        emnist(tmp_path, "letters").spec()
    for part in ("'gzip.zip'", "'emnist-letters-train-images-idx3-ubyte'", f"{tmp_path}/EMNIST/raw", "562 MB"):
        assert part in str(caught.value)
    with pytest.raises(FieldError, match="Did you mean 'letters'"):
        emnist(tmp_path, "leters")
