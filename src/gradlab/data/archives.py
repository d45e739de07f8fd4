"""Reading a .tar, .tar.gz, .tar.xz or .zip that anyone may have made.

Members are handed out one by one, as bytes: nothing is written to disk, so no member can be written to the wrong place.
What an archive says of itself is not believed: bytes are counted as they are unpacked. Links, devices, encrypted members
and names that lead out of the archive are refused, because a set of pictures has no use for them.
"""

import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from gradlab.data.pictures import printable
from gradlab.errors import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".zip")
_PIECE = 1 << 20
_BLOCK = 512
_LONGEST_NAME = 4096
_LARGEST_NOTE = 1 << 20  # of an extended tar header, which is read into memory
_XZ_MEMORY = 200 << 20  # xz -9 needs 65 MiB


@dataclass(frozen=True)
class Limits:
    """What an archive may at most unpack to.

    max_files: members, folders included.
    max_bytes: bytes of all members together.
    max_file_bytes: bytes of one member, which is held in memory.
    """

    max_files: int
    max_bytes: int
    max_file_bytes: int


@dataclass(frozen=True)
class Member:
    """``name``: its path in the archive, with ``/``. ``content``: of a file that was wanted, else None."""

    name: str
    is_folder: bool
    content: bytes | None


def is_archive(path: Path) -> bool:
    """Whether a file is taken for an archive, by its name."""
    return path.name.lower().endswith(SUFFIXES)


def members(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    """The members of the archive ``path`` in their own order, with the content of those files whose name is ``wanted``.

    Raises:
        DataError: it cannot be read to its end, goes beyond ``limits``, or holds something that is refused.
    """
    seen: set[str] = set()
    count = 0
    try:
        for member in (_zipped if path.name.lower().endswith(".zip") else _tarred)(path, wanted, limits):
            count += 1
            if count > limits.max_files:
                raise _refused(path, f"holds more than {limits.max_files:,} files", "data.max_files allows more.")
            if not member.is_folder and member.name in seen:
                raise _refused(path, f"holds '{printable(member.name)}' twice", "Pack it anew from a folder.")
            seen.add(member.name)
            yield member
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile) as error:
        said = printable(str(error)) or type(error).__name__
        raise _refused(path, f"is damaged or cut off ({said})", "Copy or fetch it again.") from error
    except (NotImplementedError, RuntimeError, struct.error, ValueError, UnicodeError) as error:  # zipfile's
        raise _refused(path, f"cannot be read ({printable(str(error))})", "Pack it anew.") from error


def _refused(path: Path, what: str, then: str) -> DataError:
    return DataError(f"The archive {printable(str(path))} {what}. {then}")


def _plain_name(path: Path, name: str) -> str:
    """``./a//b`` as ``a/b``; a name that leads anywhere else is refused."""
    if len(name) > _LONGEST_NAME:
        raise _refused(path, f"holds a name of {len(name):,} characters", "Pack it anew with shorter names.")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or name[1:2] == ":" or ".." in parts or "\0" in name:
        raise _refused(
            path, f"holds '{printable(name)}', a name that leads out of it", "Pack it anew from inside the folder."
        )
    return "/".join(part for part in parts if part != ".")


def _check_kind(path: Path, name: str, kind: str | None) -> None:
    if kind is not None:
        raise _refused(
            path,
            f"holds '{printable(name)}', which is {kind}, and only files and folders are taken",
            "Pack the pictures themselves (tar --dereference --hard-dereference).",
        )


def _too_much(path: Path, limits: Limits) -> DataError:
    return _refused(path, f"unpacks to more than {limits.max_bytes:,} bytes", "data.max_bytes allows more.")


def _too_large(path: Path, name: str, limits: Limits) -> DataError:
    return _refused(
        path,
        f"holds '{printable(name)}', which unpacks to more than the {limits.max_file_bytes:,} bytes of the largest picture",
        "data.max_pixels allows larger ones.",
    )


# --------------------------------------------------------------------------------------------------------------- tar


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unpacked:
    """The unpacked bytes of a tar, counted; unpacked by the mebibyte, for a small member is less than a call is worth."""

    def __init__(self, path: Path, raw: _Readable, limits: Limits) -> None:
        self.path, self.raw, self.limits = path, raw, limits
        self.count = 0
        self._piece = b""
        self._at = 0

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if self._at + size <= len(self._piece):
            self._at += size
            return self._piece[self._at - size : self._at]
        return b"".join(self._pieces(size))

    def skip(self, size: int) -> None:
        for _ in self._pieces(size):
            pass

    def skip_to_end(self) -> None:
        while self._fill():
            pass

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            if self._at == len(self._piece) and not self._fill():
                raise EOFError("it ends too early")
            piece = self._piece[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def _fill(self) -> bool:
        """Unpack the next piece; False at the end."""
        self._piece, self._at = self.raw.read(_PIECE), 0
        self.count += len(self._piece)
        if self.count > self.limits.max_bytes:
            raise _too_much(self.path, self.limits)
        return bool(self._piece)


class _XZ:
    """Unpacks xz with bounded memory, which ``lzma.open`` does not: a file may ask for a dictionary of 4 GiB."""

    def __init__(self, packed: _Readable) -> None:
        self.packed = packed
        self.stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        self.begun = False

    def read(self, size: int, /) -> bytes:
        while True:
            if self.stream.eof:  # several streams may follow one another, with zeros between them
                rest = self.stream.unused_data.lstrip(b"\0") or self.packed.read(_PIECE).lstrip(b"\0")
                if not rest:
                    return b""
                self.stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
                piece = self.stream.decompress(rest, size)
            else:
                more = self.packed.read(1 << 18) if self.stream.needs_input else b""
                if self.stream.needs_input and not more:
                    raise EOFError("the xz data end too early")
                piece = self.stream.decompress(more, size)
            if piece:
                return piece


# Why not tarfile.open: it reads an extended header of any size into memory, and passes over a missing end.
def _tarred(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    with path.open("rb") as file:
        suffix = path.name.lower()
        packed = suffix.endswith((".gz", ".tgz"))
        raw: _Readable = gzip.GzipFile(fileobj=file) if packed else _XZ(file) if suffix.endswith("xz") else file
        stream = _Unpacked(path, raw, limits)
        notes: dict[str, str] = {}
        while True:
            block = stream.exactly(_BLOCK)
            if not any(block):
                break
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if member.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                long_name = member.type == tarfile.GNUTYPE_LONGNAME
                note = _note(path, stream, member.size)
                notes |= {"path": _text(note.rstrip(b"\0"))} if long_name else _extended(note)
                continue
            if member.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):  # of all members; of a link, refused below
                _note(path, stream, member.size)
                continue
            size = int(notes.get("size", member.size))
            name = _plain_name(path, notes.get("path", member.name))
            _check_kind(path, name, _tar_kind(member, notes))
            notes = {}
            if member.isdir():
                if name:
                    yield Member(name, True, None)
                continue
            if size < 0:
                raise tarfile.TarError("a member has a negative size")
            content = None
            if wanted(name):
                if size > limits.max_file_bytes:
                    raise _too_large(path, name, limits)
                content = stream.exactly(size)
            else:
                stream.skip(size)
            stream.skip(-size % _BLOCK)
            yield Member(name, False, content)
        stream.skip_to_end()  # gzip and xz have their checksum there


def _tar_kind(member: tarfile.TarInfo, notes: dict[str, str]) -> str | None:
    """What a member is, where it is neither file nor folder."""
    kinds = {
        tarfile.LNKTYPE: "a hard link",
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
    }
    if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE):
        return "a sparse file" if any(key.startswith("GNU.sparse") for key in notes) else None
    return kinds.get(member.type, f"of the unknown kind {member.type!r}")


def _note(path: Path, stream: _Unpacked, size: int) -> bytes:
    if not 0 <= size <= _LARGEST_NOTE:
        raise _refused(path, f"has an extended header of {size:,} bytes", "Pack it anew.")
    note = stream.exactly(size)
    stream.skip(-size % _BLOCK)
    return note


def _extended(note: bytes) -> dict[str, str]:
    """The records ``length key=value`` of a POSIX extended header, ``length`` counting the whole record and its line end."""
    records = {}
    while note.strip(b"\0"):
        length, _, _ = note.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(note) or b"=" not in note[: int(length)]:
            raise tarfile.TarError("an extended header is malformed")
        record, note = note[len(length) + 1 : int(length) - 1], note[int(length) :]
        key, _, value = record.partition(b"=")
        if key == b"size" and not value.isdigit():
            raise tarfile.TarError("an extended header is malformed")
        records[_text(key)] = _text(value)
    return records


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


# --------------------------------------------------------------------------------------------------------------- zip


def _zipped(path: Path, wanted: Callable[[str], bool], limits: Limits) -> Iterator[Member]:
    _check_directory(path, limits)
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # Windows programs have been seen to write backslashes; and on Windows they would lead out.
            name = _plain_name(path, info.orig_filename.replace("\\", "/"))
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                _check_kind(path, name, "a symbolic link" if kind == stat.S_IFLNK else "a device or a pipe")
            if info.orig_filename.endswith(("/", "\\")) or kind == stat.S_IFDIR:
                if name:
                    yield Member(name, True, None)
                continue
            if not wanted(name):
                yield Member(name, False, None)
                continue
            if info.flag_bits & 1:
                raise _refused(
                    path, f"holds '{printable(name)}', which is encrypted", "Pack it anew without a password."
                )
            # The others unpack without a bound on the memory they take.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refused(
                    path,
                    f"holds '{printable(name)}', packed by method {info.compress_type}",
                    "Pack it anew with the usual method, deflate.",
                )
            pieces, size = [], 0
            with archive.open(info) as file:
                while piece := file.read(_PIECE):
                    size += len(piece)
                    total += len(piece)
                    if total > limits.max_bytes:
                        raise _too_much(path, limits)
                    if size > limits.max_file_bytes:
                        raise _too_large(path, name, limits)
                    pieces.append(piece)
            yield Member(name, False, b"".join(pieces))


def _check_directory(path: Path, limits: Limits) -> None:
    """Refuse a directory of members that is too large for ``max_files``: zipfile would make an object of each at once."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 66_000))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise zipfile.BadZipFile("it has no directory at its end")
    (directory,) = struct.unpack_from("<L", tail, at + 12)
    at = tail.rfind(b"PK\6\6")
    if directory == 0xFFFFFFFF and 0 <= at <= len(tail) - 48:
        (directory,) = struct.unpack_from("<Q", tail, at + 40)
    if directory > 256 * limits.max_files + 65_536:
        raise _refused(path, f"holds more than {limits.max_files:,} files", "data.max_files allows more.")
