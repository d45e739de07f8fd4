"""CIFAR, SVHN and STL-10, read from small files of their real formats whose checksums and sizes count as the real ones."""

import dataclasses
import gzip
import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from gradlab.data.datasets import stl10 as stl10_module
from gradlab.data.datasets.base import Splits
from gradlab.data.datasets.cifar import CIFAR, CIFAR10, CIFAR100
from gradlab.data.datasets.stl10 import STL10
from gradlab.data.datasets.svhn import SVHN
from gradlab.data.download import Download
from gradlab.errors import ConfigError, DataError, FieldError

NUMBERS: dict[str, Any] = {
    "batch_size": 64, "val_fraction": 0.1, "split_seed": 0, "class_weights": "none", "normalization": "standard",
}  # fmt: skip
EACH = 20


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_gz(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def pixels(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def python2_pickle(content: dict[str, Any]) -> bytes:
    """A dictionary as Python 2 and its numpy wrote it, by protocol 2: texts and the arrays' insides as bytes."""

    def written(value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            shape, kind = b"".join(map(written, value.shape)), value.dtype.str[1:].encode()
            return (
                b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(" + shape + b"t"
                b"cnumpy\ndtype\n"
                + written(kind)
                + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
                b"\x89" + written(value.tobytes()) + b"tb"
            )
        if isinstance(value, list):
            return b"](" + b"".join(map(written, value)) + b"e"
        if isinstance(value, int):
            return b"J" + value.to_bytes(4, "little", signed=True)
        text = value.encode() if isinstance(value, str) else value
        return b"T" + len(text).to_bytes(4, "little") + text

    items = b"".join(written(key) + written(value) for key, value in content.items())
    return b"\x80\x02}(" + items + b"u."


# -------------------------------------------------------------------------- CIFAR

FORMS = ("binary folder", "binary archive", "pickled folder", "pickled archive")
Make = Callable[..., CIFAR]


def cifar_files(kind: type[CIFAR]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The binary and the pickled version of the same 20 images a file, by their paths."""
    binary, pickled = {}, {}
    for number, batch in enumerate(kind.batches):
        images = pixels(number, EACH, 3072)
        fine = [(7 * index + number) % (10 if kind is CIFAR10 else 100) for index in range(EACH)]
        coarse = [label // 5 for label in fine]
        columns = [fine] if kind is CIFAR10 else [coarse, fine]
        records = np.concatenate([*(np.array(column, np.uint8)[:, None] for column in columns), images], axis=1)
        binary[f"{kind.binary_folder}/{batch.binary}"] = records.tobytes()
        labels = {"labels": fine} if kind is CIFAR10 else {"coarse_labels": coarse, "fine_labels": fine}
        pickled[f"{kind.pickled_folder}/{batch.pickled}"] = python2_pickle(
            {"batch_label": b"of a test", "data": images, "filenames": [b"a.png"] * EACH, **labels}
        )
    return binary, pickled


def cifar(kind: type[CIFAR], root: Path, **changes: Any) -> CIFAR:
    own: dict[str, Any] = {"labels": "fine"} if kind is CIFAR100 else {}
    return kind(kind.__name__.lower(), **(NUMBERS | {"root": str(root), "download": False} | own | changes))


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A CIFAR of 20 images a file, in one or more of its forms."""

    def make(kind: type[CIFAR], *forms: str, **changes: Any) -> CIFAR:
        binary, pickled = cifar_files(kind)
        archives = {"binary": tar_gz({f"{kind.binary_folder}/readme.html": b"", **binary}), "pickled": tar_gz(pickled)}
        (download,) = kind.downloads
        small = Download(download.path, len(archives["binary"]), md5(archives["binary"]), ())
        for form in forms:
            version, shape = form.split()
            if shape == "archive":
                name = download.path if version == "binary" else kind.pickled_archive
                (tmp_path / name).write_bytes(archives[version])
            else:
                for path, content in (binary if version == "binary" else pickled).items():
                    (tmp_path / path).parent.mkdir(exist_ok=True)
                    (tmp_path / path).write_bytes(content)
        batches = [
            dataclasses.replace(batch, sha256=sha256(one), md5=md5(other), images=EACH)
            for batch, one, other in zip(kind.batches, binary.values(), pickled.values(), strict=True)
        ]
        monkeypatch.setattr(kind, "batches", batches)
        monkeypatch.setattr(kind, "downloads", (small,))
        monkeypatch.setattr(kind, "pickled_archive_md5", md5(archives["pickled"]))
        monkeypatch.setattr(kind, "train_examples", EACH * (len(batches) - 1))
        monkeypatch.setattr(kind, "test_examples", EACH)
        return cifar(kind, tmp_path, **changes)

    return make


def by_image(splits: Splits) -> dict[bytes, int]:
    parts = (splits.train, splits.val, splits.test)
    return {
        image.tobytes(): int(label) for part in parts for image, label in zip(part.images, part.labels, strict=True)
    }


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("form", FORMS)
def test_a_cifar_is_read_from_each_of_its_forms(small_cifar: Make, kind: type[CIFAR], form: str) -> None:
    chosen = small_cifar(kind, form)
    splits, files = chosen.load(), len(kind.batches)
    assert splits.test.images.shape == (EACH, *chosen.spec().image_shape)
    assert len(splits.train) == chosen.spec().train_examples
    found = by_image(splits)
    assert len(found) == EACH * files
    for number in range(files):
        for index, image in enumerate(pixels(number, EACH, 3072)):
            assert found[image.tobytes()] == (7 * index + number) % len(chosen.classes())
    first = pixels(files - 1, EACH, 3072)[0]
    assert np.array_equal(splits.test.images[0, 1], first[1024:2048].reshape(32, 32))  # green, row by row


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_a_cifar_is_the_same_in_every_form(small_cifar: Make, kind: type[CIFAR], tmp_path: Path) -> None:
    told = set()
    for form in FORMS:
        told.add(small_cifar(kind, form).load().fingerprint)
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert len(told) == 1


@pytest.mark.parametrize("form", FORMS)
def test_cifar100s_coarse_labels_are_its_groups(small_cifar: Make, form: str) -> None:
    splits = small_cifar(CIFAR100, form, labels="coarse").load()
    assert len(cifar(CIFAR100, Path(), labels="coarse").classes()) == 20
    assert splits.test.labels.tolist() == [(7 * index + 1) % 100 // 5 for index in range(EACH)]


def test_a_file_that_a_folder_lacks_is_read_from_an_archive(small_cifar: Make, tmp_path: Path) -> None:
    chosen = small_cifar(CIFAR10, "binary folder", "pickled archive")
    told = chosen.load().fingerprint
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    assert chosen.load().fingerprint == told


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_a_damaged_file_of_a_cifar_is_named_with_both_checksums(
    small_cifar: Make, kind: type[CIFAR], form: str, tmp_path: Path
) -> None:
    chosen = small_cifar(kind, form)
    file = next(path for path in sorted(tmp_path.rglob("*"), reverse=True) if path.is_file())
    whole = file.read_bytes()
    for content in (whole[:-1000], whole[: len(whole) // 2], b"", flipped(whole, len(whole) // 2)):
        file.write_bytes(content)
        with pytest.raises(DataError) as caught:
            chosen.load()
        assert str(file) in str(caught.value)
        assert "checksum" in str(caught.value)
        if "folder" in form:
            assert md5(content) in str(caught.value) or sha256(content) in str(caught.value)


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :]


def test_a_pickle_is_not_opened_before_its_checksum_is_right(small_cifar: Make, tmp_path: Path) -> None:
    chosen = small_cifar(CIFAR10, "pickled folder")
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(b"cos\nsystem\n(S'exit 7'\ntR.")
    with pytest.raises(DataError, match="data_batch_2 is damaged: its content has the MD5 checksum"):
        chosen.load()


@pytest.mark.parametrize("program", ["os\nsystem", "builtins\neval", "numpy.core.multiarray\nscalar"])
def test_a_pickle_that_would_run_a_program_is_refused(
    small_cifar: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    chosen = small_cifar(CIFAR10, "pickled folder")
    mark = tmp_path / "it ran"
    malicious = f"c{program}\n(S'touch \"{mark}\"'\ntR.".encode()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(malicious)
    # As if its forger had found another file of the same MD5.
    batches = [dataclasses.replace(CIFAR10.batches[0], md5=md5(malicious)), *CIFAR10.batches[1:]]
    monkeypatch.setattr(CIFAR10, "batches", batches)
    with pytest.raises(DataError, match="refused") as caught:
        chosen.load()
    assert program.replace("\n", ".") in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"data": pixels(0, EACH, 3072)},
        {"data": pixels(0, EACH - 1, 3072), "labels": [0] * (EACH - 1)},
        {"data": pixels(0, EACH, 3072).astype(np.float32), "labels": [0] * EACH},
        {"data": pixels(0, EACH, 3072), "labels": ["cat"] * EACH},
        {"data": pixels(0, EACH, 3072), "labels": [0] * (EACH + 1)},
        {"data": [1, 2, 3], "labels": [0] * EACH},
        {"data": pixels(0, EACH, 3072), "labels": [10] * EACH},
        {"data": pixels(0, EACH, 3072), "labels": [-1] * EACH},
    ],
)
def test_a_pickle_of_other_content_is_refused(
    small_cifar: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]
) -> None:
    chosen = small_cifar(CIFAR10, "pickled folder")
    written = python2_pickle(content)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(written)
    batches = [dataclasses.replace(CIFAR10.batches[0], md5=md5(written)), *CIFAR10.batches[1:]]
    monkeypatch.setattr(CIFAR10, "batches", batches)
    with pytest.raises(DataError, match=r"data_batch_1 (is damaged|does not hold|is refused)"):
        chosen.load()


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_a_missing_cifar_says_what_may_stand_there(small_cifar: Make, kind: type[CIFAR], tmp_path: Path) -> None:
    chosen = small_cifar(kind)
    with pytest.raises(ConfigError) as caught:
        chosen.spec()
    for part in (f"'{kind.downloads[0].path}'", f"'{kind.pickled_archive}'", str(tmp_path), "data.download=true"):
        assert part in str(caught.value)
    assert dataclasses.replace(chosen, download=True).spec().train_examples > 0


def test_what_is_known_of_cifar_is_what_torchvision_knows() -> None:
    from torchvision import datasets

    for kind, theirs in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        assert [[batch.pickled, batch.md5] for batch in kind.batches] == theirs.train_list + theirs.test_list
        assert kind.pickled_folder == theirs.base_folder
        assert (kind.pickled_archive, kind.pickled_archive_md5) == (theirs.filename, theirs.tgz_md5)
        assert sum(batch.images for batch in kind.batches) == 60_000


def test_cifars_classes() -> None:
    classes = cifar(CIFAR10, Path()).classes()
    assert " ".join(classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    fine, coarse = (cifar(CIFAR100, Path(), labels=labels).classes() for labels in ("fine", "coarse"))
    assert (len(set(fine)), len(set(coarse))) == (100, 20)
    assert list(fine) == sorted(fine)
    assert list(coarse) == sorted(coarse)
    assert (fine[19], coarse[11]) == ("cattle", "large_omnivores_and_herbivores")  # the first training image's
    with pytest.raises(FieldError, match="labels"):
        cifar(CIFAR100, Path(), labels="medium")


# --------------------------------------------------------------------------- SVHN


def svhn(root: Path) -> SVHN:
    return SVHN("svhn", **NUMBERS, root=str(root), download=False)


@pytest.fixture
def small_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SVHN]:
    """SVHN with 30 and 10 images, in MATLAB's format 5, compressed as the real files are."""

    def make(first_label: int = 1, **variables: Any) -> SVHN:
        downloads = []
        for download, count in zip(SVHN.downloads, (30, 10), strict=True):
            images = pixels(count, 32, 32, 3, count)
            labels = (np.arange(count) % 10 + first_label).astype(np.uint8)[:, None]
            savemat(tmp_path / download.path, {"X": images, "y": labels} | variables, do_compression=True)
            content = (tmp_path / download.path).read_bytes()
            downloads.append(Download(download.path, len(content), md5(content), ()))
        monkeypatch.setattr(SVHN, "downloads", tuple(downloads))
        monkeypatch.setattr(SVHN, "train_examples", 30)
        monkeypatch.setattr(SVHN, "test_examples", 10)
        return svhn(tmp_path)

    return make


def test_svhn_is_turned_and_its_zero_is_a_zero(small_svhn: Callable[..., SVHN]) -> None:
    chosen = small_svhn()
    splits = chosen.load()
    assert splits.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(splits.test.images, pixels(10, 32, 32, 3, 10).transpose(3, 2, 0, 1))
    assert splits.test.images.flags.c_contiguous
    assert len(splits.train) == chosen.spec().train_examples == 27
    assert chosen.spec().classes == tuple("0123456789")


@pytest.mark.parametrize(
    "variables", [{"y": np.zeros((10, 2), np.uint8)}, {"X": np.zeros((32, 32, 3, 10))}, {"X": np.zeros(4, np.uint8)}]
)
def test_a_file_of_other_variables_is_refused(small_svhn: Callable[..., SVHN], variables: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"_32x32\.mat"):
        small_svhn(**variables).load()


def test_a_label_that_svhn_does_not_have_is_refused(small_svhn: Callable[..., SVHN]) -> None:
    with pytest.raises(DataError, match="labels go from 0 to 11"):
        small_svhn(first_label=2).load()


def test_a_damaged_or_missing_svhn_is_named(small_svhn: Callable[..., SVHN], tmp_path: Path) -> None:
    chosen = small_svhn()
    file = tmp_path / "test_32x32.mat"
    published, content = md5(file.read_bytes()), flipped(file.read_bytes(), 500)
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), md5(content), published):
        assert part in str(caught.value)
    file.unlink()
    with pytest.raises(ConfigError, match=r"'test_32x32\.mat'"):
        chosen.spec()


def test_a_file_that_is_not_matlabs_is_refused(
    small_svhn: Callable[..., SVHN], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = small_svhn()
    (tmp_path / "train_32x32.mat").write_bytes(b"<html>" * 100)
    changed = Download("train_32x32.mat", 600, md5(b"<html>" * 100), ())
    monkeypatch.setattr(SVHN, "downloads", (changed, SVHN.downloads[1]))
    with pytest.raises(DataError, match="is no MATLAB file"):
        chosen.load()


def test_svhns_checksums_are_torchvisions() -> None:
    from torchvision import datasets

    for download, split in zip(SVHN.downloads, ("train", "test"), strict=True):
        _, *known = datasets.SVHN.split_list[split]
        assert [download.path, download.md5] == known


# ------------------------------------------------------------------------- STL-10


def stl10(root: Path) -> STL10:
    return STL10("stl10", **NUMBERS, root=str(root), download=False)


def stl10_files() -> dict[str, bytes]:
    """The bytes of a file are a column of red after the other, then green, then blue."""
    files: dict[str, bytes] = {}
    for part, count in (("train", 20), ("test", 10)):
        upright = pixels(count, count, 3, 96, 96)
        files[f"stl10_binary/{part}_X.bin"] = upright.transpose(0, 1, 3, 2).tobytes()
        files[f"stl10_binary/{part}_y.bin"] = bytes(index % 10 + 1 for index in range(count))
    return files


@pytest.fixture
def small_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], STL10]:
    def make(form: str) -> STL10:
        files = stl10_files()
        archive = tar_gz({"stl10_binary/unlabeled_X.bin": b"x" * 1000, **files})
        if form == "archive":
            (tmp_path / "stl10_binary.tar.gz").write_bytes(archive)
        else:
            (tmp_path / "stl10_binary").mkdir()
            for path, content in files.items():
                (tmp_path / path).write_bytes(content)
        for path, content in files.items():
            monkeypatch.setitem(stl10_module.CHECKSUMS, Path(path).name, md5(content))
        monkeypatch.setattr(STL10, "downloads", (Download("stl10_binary.tar.gz", len(archive), md5(archive), ()),))
        monkeypatch.setattr(STL10, "train_examples", 20)
        monkeypatch.setattr(STL10, "test_examples", 10)
        return stl10(tmp_path)

    return make


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_stl10_stands_upright_and_its_labels_begin_at_zero(small_stl10: Callable[[str], STL10], form: str) -> None:
    chosen = small_stl10(form)
    splits = chosen.load()
    assert np.array_equal(splits.test.images, pixels(10, 10, 3, 96, 96))
    assert splits.test.images.flags.c_contiguous
    assert splits.test.labels.tolist() == list(range(10))
    assert len(splits.train) == chosen.spec().train_examples == 18


def test_stl10s_archive_lacking_a_file_and_one_cut_are_named(
    small_stl10: Callable[[str], STL10], tmp_path: Path
) -> None:
    chosen = small_stl10("archive")
    file = tmp_path / "stl10_binary.tar.gz"
    whole = file.read_bytes()
    file.write_bytes(tar_gz({name: content for name, content in stl10_files().items() if "test_y" not in name}))
    with pytest.raises(DataError, match=r"there is no 'stl10_binary/test_y\.bin' in it"):
        chosen.load()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        chosen.load()
    for part in (str(file), md5(file.read_bytes()), md5(whole)):
        assert part in str(caught.value)


def test_what_is_known_of_stl10_is_what_torchvision_knows() -> None:
    from torchvision import datasets

    theirs = dict(datasets.STL10.train_list[:2] + datasets.STL10.test_list)
    assert theirs == stl10_module.CHECKSUMS
    (download,) = STL10.downloads
    assert (download.path, download.md5) == (datasets.STL10.filename, datasets.STL10.tgz_md5)
    assert " ".join(stl10(Path()).classes()) == "airplane bird car cat deer dog horse monkey ship truck"
