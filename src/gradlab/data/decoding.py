"""A whole listing of pictures, read once and kept: their headers, their pixels, or what there is to say of their pixels.

Threads, not processes: Pillow lets go of Python's global lock while it decodes, and a thread leaves nothing behind. On two
shared cores a JPEG took, with one thread and with two, 0.18 and 0.16 ms at 32×32 pixels (Python's share is most of that),
1.0 and 0.6 ms at 256×256, and 4.6 and 2.7 ms at 1024×1024.
"""

import collections
import concurrent.futures
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gradlab.data.archives import Limits, members
from gradlab.data.cache import Cache, key_of
from gradlab.data.listing import Layout, Listing
from gradlab.data.moments import moments
from gradlab.data.pictures import Header, PictureError, decode, header
from gradlab.errors import DataError
from gradlab.interruption import stop_if_asked

T = TypeVar("T")
Picture = tuple[int, Path | bytes]
"""A picture's row in its listing, and its file or content."""

_AT_ONCE = 32  # pictures to a task of a thread: handing over one costs as much as decoding a small one
_WAITING = 32 << 20  # bytes of unpacked pictures that wait for a thread
_WORTH_A_WORD = 5000  # pictures


@dataclass(frozen=True)
class Look:
    """How pictures are decoded: the arguments of ``pictures.decode``."""

    channels: int
    size: tuple[int, int]
    fit: str
    max_pixels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, *self.size)

    @property
    def size_in_bytes(self) -> int:
        """Of one decoded picture."""
        return self.channels * self.size[0] * self.size[1]

    def decode(self, file: Path | bytes) -> npt.NDArray[np.uint8]:
        return decode(file, channels=self.channels, size=self.size, fit=self.fit, max_pixels=self.max_pixels)


@dataclass(frozen=True)
class Bad:
    """Why pictures cannot be used, by row: the reason, and whether reading them again cannot help."""

    reasons: dict[int, tuple[str, bool]]

    @classmethod
    def read(cls, entry: Path) -> "Bad":
        return cls({int(row): (reason, lasting) for row, (reason, lasting) in json.loads(_text(entry, "bad")).items()})

    def write(self, entry: Path) -> None:
        (entry / "bad.json").write_text(json.dumps(self.reasons))

    def note(self, row: int, error: PictureError) -> None:
        self.reasons[row] = (error.reason, error.lasting)


class Pictures:
    """The pictures of a listing, with what is known of them kept in ``cache``."""

    def __init__(self, listing: Listing, limits: Limits, cache: Cache) -> None:
        self.listing = listing
        self.limits = limits
        self.cache = cache

    def __len__(self) -> int:
        return len(self.listing.names)

    # ------------------------------------------------------------------------------------------------------- headers

    def headers(self) -> tuple[npt.NDArray[np.int64], Bad]:
        """Width, height and whether it is grey (0 or 1) of each picture, int64 [pictures, 3]; zeros for a bad one."""

        def read_all(entry: Path) -> None:
            self._tell("looking at")
            table, bad = np.zeros((len(self), 3), dtype=np.int64), Bad({})
            for row, found in self._each(header):
                if isinstance(found, Header):
                    table[row] = found.width, found.height, found.grey
                else:
                    bad.note(row, found)
            np.save(entry / "headers.npy", table)
            bad.write(entry)

        entry = self.cache.entry(self._key("headers"), read_all, self._is_stale)
        return np.load(entry / "headers.npy", allow_pickle=False), Bad.read(entry)

    # -------------------------------------------------------------------------------------------------------- pixels

    def has_pixels(self, look: Look) -> bool:
        return self.cache.has(self._key("pixels", look))

    def pixels(self, look: Look) -> tuple[npt.NDArray[np.uint8], Bad]:
        """All pictures decoded, uint8 [pictures, channels, height, width], mapped from the cache; zeros for a bad one."""

        def decode_all(entry: Path) -> None:
            self._tell("decoding")
            bad, shape = Bad({}), (len(self), *look.shape)
            # Not a mapped file: where the disk is full, writing to one of those ends the process with SIGBUS.
            with (entry / "pixels.npy").open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                start = file.tell()
                file.truncate(start + len(self) * look.size_in_bytes)

                def to_file(picture: Picture) -> None:
                    row, source = picture
                    os.pwrite(file.fileno(), look.decode(source).data, start + row * look.size_in_bytes)

                for row, error in self._each_picture(to_file):
                    if isinstance(error, PictureError):
                        bad.note(row, error)
            bad.write(entry)

        entry = self.cache.entry(self._key("pixels", look), decode_all, self._is_stale)
        images = np.load(entry / "pixels.npy", mmap_mode="r", allow_pickle=False)
        return images, Bad.read(entry)

    # -------------------------------------------------------------------------------------------------------- survey

    def survey(self, look: Look, files: "Files") -> tuple[npt.NDArray[np.int64], str, Bad]:
        """What one pass over the decoded pictures tells, without keeping them.

        The moments of each picture, int64 [pictures, 2, channels]; a SHA-256 over the pixels of all good ones in order,
        as ``pixels_sha256`` has it; and the bad ones.
        """

        def read_all(entry: Path) -> None:
            self._tell("reading the statistics of")
            table, bad, digest = np.zeros((len(self), 2, look.channels), dtype=np.int64), Bad({}), hashlib.sha256()

            def decoded(picture: Picture) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
                pixels = look.decode(picture[1])
                return pixels, moments(pixels[None])

            for row, found in _spread(((row, files.file(row)) for row in range(len(self))), decoded):
                if isinstance(found, PictureError):
                    bad.note(row, found)
                else:
                    digest.update(found[0].data)
                    table[row] = found[1]
            np.save(entry / "moments.npy", table)
            (entry / "pixels.sha256").write_text(digest.hexdigest())
            bad.write(entry)

        entry = self.cache.entry(self._key("survey", look), read_all, self._is_stale)
        table = np.load(entry / "moments.npy", allow_pickle=False)
        return table, (entry / "pixels.sha256").read_text(), Bad.read(entry)

    def files(self) -> "Files":
        """The pictures, to be read in any order: those of an archive are unpacked, into one file of the cache."""
        if not self.listing.is_archive:
            return Files(self.listing, None, None)

        def unpack(entry: Path) -> None:
            self._tell("unpacking")
            spans = np.zeros((len(self), 2), dtype=np.int64)
            with (entry / "pictures.bin").open("wb") as file:
                for row, content in self._all():
                    assert isinstance(content, bytes)
                    spans[row] = file.tell(), len(content)
                    file.write(content)
            np.save(entry / "spans.npy", spans)

        entry = self.cache.entry(self._key("files"), unpack)
        return Files(self.listing, entry / "pictures.bin", np.load(entry / "spans.npy", allow_pickle=False))

    # ------------------------------------------------------------------------------------------------------- reading

    def _all(self) -> Iterator[Picture]:
        """Every picture; those of an archive in its own order, unpacked in memory."""
        if not self.listing.is_archive:
            yield from ((row, self.listing.root / name) for row, name in enumerate(self.listing.names))
            return
        rows = {self.listing.wrapper + name: row for row, name in enumerate(self.listing.names)}
        found = 0
        for member in members(self.listing.root, rows.__contains__, self.limits):
            if member.content is not None:
                found += 1
                yield rows[member.name], member.content
        if found != len(rows):
            raise DataError(f"The archive {self.listing.root} was changed while it was read. Start again.")

    def _each(self, task: Callable[[Path | bytes], T]) -> Iterator[tuple[int, T | PictureError]]:
        return self._each_picture(lambda picture: task(picture[1]))

    def _each_picture(self, task: Callable[[Picture], T]) -> Iterator[tuple[int, T | PictureError]]:
        return _spread(self._all(), task)

    def _key(self, kind: str, look: Look | None = None) -> str:
        import PIL

        # Another Pillow may decode to other pixels.
        return key_of("1", kind, self.listing.key, self.listing.is_archive, self.limits, look, look and PIL.__version__)

    def _is_stale(self, entry: Path) -> bool:
        """Whether a picture that could not be read, of which its listing shows no trace, can be read now."""
        return any(
            not lasting and (self.listing.is_archive or os.access(self.listing.root / self.listing.names[row], os.R_OK))
            for row, (_, lasting) in Bad.read(entry).reasons.items()
        )

    def _tell(self, doing: str) -> None:
        if len(self) >= _WORTH_A_WORD:
            where = self.cache.folder
            print(f"{doing} {len(self):,} pictures, once: the result is kept in {where}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Files:
    """The pictures of ``listing`` by row: its files, or spans (offset and length, int64 [pictures, 2]) of ``pack``."""

    listing: Listing
    pack: Path | None
    spans: npt.NDArray[np.int64] | None

    def file(self, row: int) -> Path | bytes:
        if self.pack is None or self.spans is None:
            return self.listing.root / self.listing.names[row]
        offset, length = self.spans[row].tolist()
        with self.pack.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


@dataclass(frozen=True)
class Decoder:
    """Decodes pictures of ``files`` by row, each time anew; as ``look`` says."""

    files: Files
    look: Look

    def at(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The pictures in ``rows``, [rows, channels, height, width]; ``DataError`` where one was damaged since."""
        images = np.empty((len(rows), *self.look.shape), dtype=np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            try:
                image[...] = self.look.decode(self.files.file(row))
            except PictureError as error:
                raise DataError(
                    f"{self.files.listing.shown(row)} {error.reason}. It was changed after this run had begun."
                ) from error
        return images


def fingerprint_of(pixels_sha256: str, layout: Layout, good: npt.NDArray[np.int64], look: Look) -> str:
    """The SHA-256 that names a set: of its pixels, its labels, its parts and the shape of its images."""
    digest = hashlib.sha256(pixels_sha256.encode())
    for values in (layout.labels[good], layout.parts[good]):
        digest.update(values.astype("<i8").tobytes())
    digest.update(repr(look.shape).encode())
    return digest.hexdigest()


def pixels_sha256(images: npt.NDArray[np.uint8], good: npt.NDArray[np.int64]) -> str:
    """SHA-256 over the pixels of the images at ``good``, in order."""
    digest = hashlib.sha256()
    some = max(1, (1 << 22) // max(1, images[:1].nbytes))
    for first in range(0, len(good), some):
        stop_if_asked()
        digest.update(np.ascontiguousarray(images[good[first : first + some]]).data)
    return digest.hexdigest()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _spread(pictures: Iterable[Picture], task: Callable[[Picture], T]) -> Iterator[tuple[int, T | PictureError]]:
    """``task`` of every picture, by as many threads as there are cores; in the order of the pictures."""

    def work(group: list[Picture]) -> list[tuple[int, T | PictureError]]:
        done: list[tuple[int, T | PictureError]] = []
        for picture in group:
            stop_if_asked()
            try:
                done.append((picture[0], task(picture)))
            except PictureError as error:
                done.append((picture[0], error))
        return done

    threads = cores()
    waiting: collections.deque[tuple[concurrent.futures.Future[list[tuple[int, T | PictureError]]], int]]
    waiting = collections.deque()
    held = 0
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for group, size in _groups(pictures):
            waiting.append((pool.submit(work, group), size))
            held += size
            while len(waiting) > 2 * threads or (held > _WAITING and waiting):
                future, size = waiting.popleft()
                held -= size
                yield from future.result()
        while waiting:
            yield from waiting.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _groups(pictures: Iterable[Picture]) -> Iterator[tuple[list[Picture], int]]:
    """Pictures for one task each, and the bytes that they hold in memory."""
    group: list[Picture] = []
    size = 0
    for picture in pictures:
        group.append(picture)
        size += len(picture[1]) if isinstance(picture[1], bytes) else 0
        if len(group) == _AT_ONCE or size > _WAITING // 8:
            yield group, size
            group, size = [], 0
    if group:
        yield group, size


def _text(entry: Path, name: str) -> str:
    return (entry / f"{name}.json").read_text()
