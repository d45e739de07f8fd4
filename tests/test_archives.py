"""The plain twins: what tarfile and zipfile read. Refusals are in test_corpus.py."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from gradlab.data.archives import Limits, is_archive, members
from gradlab.errors import DataError

LIMITS = Limits(max_files=1000, max_bytes=10**8, max_file_bytes=10**7)
FILES = {
    "a/1.jpg": b"x" * 1000,
    "a/empty.jpg": b"",
    "a/block.jpg": b"b" * 512,
    "b/" + "long" * 60 + "/2.jpg": b"y" * 513,
    "b/" + "very/" * 150 + "3.jpg": bytes(3_000_000),
    "ü/猫 \n.jpg": b"z",
    "notes.txt": b"not wanted",
}


def everything(path: Path) -> dict[str, bytes | None]:
    found = members(path, lambda name: name.endswith(".jpg"), LIMITS)
    return {member.name: member.content for member in found if not member.is_folder}


def expected() -> dict[str, bytes | None]:
    return {name: content if name.endswith(".jpg") else None for name, content in FILES.items()}


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("packing", ["", ":gz", ":xz"])
def test_a_tar_is_what_tarfile_reads(tmp_path: Path, kind: int, packing: str) -> None:
    path = tmp_path / f"a.tar{packing.replace(':', '.')}"
    with tarfile.open(path, f"w{packing}", format=kind) as file:  # type: ignore[call-overload]
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # a note in the POSIX format
            file.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo("b/folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    assert everything(path) == expected()
    with tarfile.open(path) as file:
        plain = {info.name: info.isdir() for info in file}
    assert {member.name: member.is_folder for member in members(path, lambda name: False, LIMITS)} == plain


def test_a_tar_of_the_oldest_kind_is_read(tmp_path: Path) -> None:
    short = {name: content for name, content in FILES.items() if len(name) < 90 and name.isascii()}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for name, content in short.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    assert everything(tmp_path / "a.tar") == {name: expected()[name] for name in short}


def test_a_zip_is_what_zipfile_reads(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in FILES.items():
            file.writestr(name, content)
    assert everything(tmp_path / "a.zip") == expected()


def test_limits_are_kept_to_the_byte_and_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(3):
            file.writestr(f"{number}.jpg", bytes(100))
    assert len(list(members(tmp_path / "a.zip", lambda name: True, Limits(3, 300, 100)))) == 3
    for limits, said in [
        (Limits(2, 300, 100), "more than 2 files"),
        (Limits(3, 299, 100), "more than 299 bytes"),
        (Limits(3, 300, 99), "more than the 99 bytes"),
    ]:
        with pytest.raises(DataError, match=said):
            list(members(tmp_path / "a.zip", lambda name: True, limits))


def test_names_of_archives() -> None:
    assert [name for name in ("a.tar", "a.TGZ", "a.tar.xz", "a.zip", "a.rar", "a.gz", "a") if is_archive(Path(name))] == [
        "a.tar", "a.TGZ", "a.tar.xz", "a.zip",
    ]  # fmt: skip
