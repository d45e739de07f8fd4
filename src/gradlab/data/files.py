"""The files that a dataset is published as: where they may lie, and reading them only once their checksums are right.

A dataset consists of *pieces*, such as the training images. The content of a piece may lie in several *places*: in a
file, in that file packed by gzip, or in an archive. Whichever is there is read; nothing is unpacked to the disk.
"""

import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from gradlab.errors import DataError


@dataclass(frozen=True)
class Place:
    """A place where the content of a piece may lie. Checksums are hexadecimal, MD5 or SHA-256 by their length.

    They are checks against damage: MD5 holds off no forger.

    path: of a file below ``data.root``.
    member: the path inside that file, where it is a zip or tar archive.
    content: checksum of the content, unpacked; None where nobody publishes one.
    file: checksum of the file as it is published; asked for where ``content`` is None.
    """

    path: str
    member: str = ""
    content: str | None = None
    file: str | None = None

    @property
    def packed(self) -> bool:
        return (self.member or self.path).endswith(".gz")


class Piece(NamedTuple):
    """A part of a dataset, and the places where it may lie, the first choice first."""

    name: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Content:
    """The content of a piece, verified as far as its place has checksums. ``where`` names it in messages."""

    data: bytes
    place: Place
    where: str


def find(root: Path, piece: Piece) -> Place | None:
    """The first of the piece's places that there is; None where there is none."""
    return next((place for place in piece.places if (root / place.path).is_file()), None)


def read(root: Path, pieces: Sequence[Piece]) -> list[Content]:
    """The contents of ``pieces``, in their order. An archive that holds several is read once.

    Raises:
        DataError: a file is gone, cannot be unpacked, or has another checksum than it should; with path and checksums.
    """
    places = []
    for piece in pieces:
        place = find(root, piece)
        if place is None:
            raise DataError(f"{(root / piece.places[0].path).absolute()} is not there any more.")
        places.append(place)
    found: dict[Place, Content] = {}
    for path in dict.fromkeys(place.path for place in places):
        wanted = [place for place in dict.fromkeys(places) if place.path == path]
        found |= {content.place: content for content in _read_file((root / path).absolute(), wanted)}
    return [found[place] for place in places]


def checksum_of(file: IO[bytes], algorithm: str = "md5") -> str:
    """The checksum of an open file from its position to its end, hexadecimal."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _read_file(file: Path, places: list[Place]) -> Iterator[Content]:
    """The contents of one file: itself, or the members of an archive."""
    published = places[0].file
    try:
        if published is not None and any(place.content is None for place in places):
            with file.open("rb") as stream:
                found = checksum_of(stream, _algorithm(published))
            if found != published:
                raise DataError(_damaged(str(file), found, published))
        members = _members(file, [place.member for place in places])
        for place, data in zip(places, members, strict=True):
            where = f"{file} ({place.member})" if place.member else str(file)
            content = gzip.decompress(data) if place.packed else data
            if place.content is not None:
                found = hashlib.new(_algorithm(place.content), content, usedforsecurity=False).hexdigest()
                if found != place.content:
                    raise DataError(_damaged(where, found, place.content))
            yield Content(content, place, where)
    except (OSError, EOFError, zlib.error, _UnpackingError) as error:
        raise DataError(f"{file} cannot be unpacked ({error}). {_compared(file, published)}{_AGAIN}") from error


class _UnpackingError(Exception):
    """An archive is broken, or lacks a member."""


def _members(file: Path, members: list[str]) -> list[bytes]:
    """The bytes of each member of an archive; of the whole file where the member is ''."""
    if members == [""]:
        return [file.read_bytes()]
    if file.suffix == ".zip":
        return _from_zip(file, members)
    return _from_tar(file, members)


def _from_zip(file: Path, members: list[str]) -> list[bytes]:
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            return [archive.read(member) for member in members]
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise _UnpackingError(str(error).strip("'\"")) from error


def _from_tar(file: Path, members: list[str]) -> list[bytes]:
    import tarfile

    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r|gz") as archive:  # as a stream: a tar has no table of contents
            for entry in archive:
                name = entry.name.removeprefix("./")
                if name in members and entry.isreg():
                    stream = archive.extractfile(entry)
                    assert stream is not None
                    found[name] = stream.read()
                    if len(found) == len(members):
                        break
    except tarfile.TarError as error:
        raise _UnpackingError(str(error)) from error
    for member in members:
        if member not in found:
            raise _UnpackingError(f"there is no '{member}' in it")
    return [found[member] for member in members]


_AGAIN = "Delete it and fetch it again."


def _damaged(where: str, found: str, expected: str) -> str:
    kind = {"md5": "MD5", "sha256": "SHA-256"}[_algorithm(expected)]
    return f"{where} is damaged: its content has the {kind} checksum {found}, and it must be {expected}. {_AGAIN}"


def _compared(file: Path, published: str | None) -> str:
    """A sentence with the checksums of a file that cannot be unpacked, where its publisher gives one."""
    if published is not None:
        with contextlib.suppress(OSError), file.open("rb") as stream:
            return f"Its MD5 checksum is {checksum_of(stream)}, and the published file's is {published}. "
    return ""


def _algorithm(checksum: str) -> str:
    return {32: "md5", 64: "sha256"}[len(checksum)]
