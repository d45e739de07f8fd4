"""Which pictures a folder or an archive holds, and what their folders say: the class of each, and its part of the set."""

import contextlib
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradlab.data.archives import SUFFIXES as ARCHIVE_SUFFIXES
from gradlab.data.archives import Limits, is_archive, members
from gradlab.data.cache import Cache, key_of
from gradlab.data.pictures import is_picture, printable
from gradlab.errors import ConfigError, DataError

TRAIN, VAL, TEST = 0, 1, 2
"""The parts of a set."""

_PARTS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}


@dataclass(frozen=True)
class Listing:
    """The pictures below ``root``, a folder or an archive.

    names: paths relative to it with ``/``, sorted; of an archive without the one folder that all of it lies in.
    folders: every folder, likewise.
    ignored: how many other files there are: hidden ones, and those whose suffix is no picture's.
    wrapper: that one folder, with its ``/``; else empty.
    key: says path, and name, size and time of the last change of every file; of an archive those of itself.
    """

    root: Path
    is_archive: bool
    names: tuple[str, ...]
    folders: tuple[str, ...]
    ignored: int
    wrapper: str
    key: str

    def shown(self, row: int) -> str:
        """Picture ``row`` as a message names it."""
        return printable(f"{self.root}/{self.wrapper}{self.names[row]}")


@dataclass(frozen=True)
class Layout:
    """What the folders of a listing say.

    classes: their names, sorted.
    labels: the class of each picture, int64 [pictures].
    parts: TRAIN, VAL or TEST, as the folders have it; all TRAIN where they name no parts. int64 [pictures].
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]


def listing_of(root: Path, limits: Limits, cache: Cache) -> Listing:
    """What ``root`` holds. A folder is looked through every time; an archive once, and again when it has changed.

    Raises:
        ConfigError: there is no such folder or archive.
        DataError: it cannot be read.
    """
    root = root.expanduser().absolute()
    try:
        status = root.stat()
        if stat.S_ISDIR(status.st_mode):
            return _list_folder(root)
    except OSError as error:
        raise ConfigError(
            f"data.root={printable(str(root))} cannot be read: {error.strerror}. "
            "Name the folder (or archive) that holds one folder for each class."
        ) from error
    if not stat.S_ISREG(status.st_mode) or not is_archive(root):
        raise ConfigError(
            f"data.root={printable(str(root))} is neither a folder nor an archive. "
            f"Archives end in {', '.join(ARCHIVE_SUFFIXES)}."
        )
    return _list_archive(root, status, limits, cache)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in name.split("/"))


def _list_folder(root: Path) -> Listing:
    names, folders, ignored = [], [], 0
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    found = []
    for name, entry in _walk(root, "", frozenset()):
        if entry is None:
            folders.append(name)
        elif is_picture(name) and not _is_hidden(name.rpartition("/")[2]):
            found.append((name, entry))
        else:
            ignored += 1
    for name, (size, changed) in sorted(found):
        names.append(name)
        digest.update(f"{name}\0{size}\0{changed}\0".encode("utf-8", "surrogateescape"))
    return Listing(root, False, tuple(names), tuple(sorted(folders)), ignored, "", digest.hexdigest())


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Every folder (with None) and file (with its size and time of change) below; links are followed, but not in circles."""
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if _is_hidden(entry.name):
                    if not entry.is_dir():
                        yield name, (0, 0)
                elif entry.is_dir():
                    yield name, None
                    yield from _walk(Path(entry.path), f"{name}/", above | {here})
                else:
                    of_entry = (0, 0)  # a link to nothing: said when it is read
                    with contextlib.suppress(FileNotFoundError):
                        of_entry = (entry.stat().st_size, entry.stat().st_mtime_ns)
                    yield name, of_entry
    except OSError as error:
        raise DataError(f"The folder {printable(str(folder))} cannot be read: {error.strerror}.") from error


def _list_archive(root: Path, status: os.stat_result, limits: Limits, cache: Cache) -> Listing:
    key = key_of("archive", str(root.resolve()), status.st_size, status.st_mtime_ns)

    def look_through(folder: Path) -> None:
        names, folders, ignored = [], set(), 0
        # None is wanted, and so none is held in memory; a tar is unpacked all the same, and its limits are kept.
        for member in members(root, lambda name: False, limits):
            parents = member.name.split("/") if member.is_folder else member.name.split("/")[:-1]
            if _is_hidden(member.name) or not (member.is_folder or is_picture(member.name)):
                ignored += not member.is_folder
                continue
            folders |= {"/".join(parents[:depth]) for depth in range(1, len(parents) + 1)}
            if not member.is_folder:
                names.append(member.name)
        (folder / "listing.json").write_text(json.dumps([sorted(names), sorted(folders), ignored]))

    entry = cache.entry(key_of("listing", key, limits), look_through)
    names, folders, ignored = json.loads((entry / "listing.json").read_text())
    wrapper = ""
    tops = {name.split("/")[0] for name in [*names, *folders]}
    if len(tops) == 1 and not any("/" not in name or name.count("/") == 1 for name in names):
        (top,) = tops
        if top.lower() not in _PARTS:
            wrapper = f"{top}/"
            names = [name.removeprefix(wrapper) for name in names]
            folders = [name.removeprefix(wrapper) for name in folders if name != top]
    return Listing(root, True, tuple(names), tuple(folders), ignored, wrapper, key)


# ------------------------------------------------------------------------------------------------------------ layout


def layout_of(listing: Listing) -> Layout:
    """The class and the part of every picture.

    Raises:
        ConfigError: the folders are not laid out as a set of pictures is.
    """
    where = f"data.root={printable(str(listing.root))}"
    if not listing.names:
        also = f" ({listing.ignored:,} files are no pictures by their suffix)" if listing.ignored else ""
        raise ConfigError(f"{where} holds no pictures{also}. It must hold one folder of pictures for each class.")
    tops = sorted({folder.split("/")[0] for folder in listing.folders})
    named = {top: _PARTS[top.lower()] for top in tops if top.lower() in _PARTS}
    has_parts = TRAIN in named.values() and len(named) == len(tops)
    if has_parts and len(set(named.values())) < len(named):
        raise ConfigError(f"{where} holds {', '.join(tops)}, and two of them mean the same part. Leave one of each.")

    depth = 1 if has_parts else 0
    split = [name.split("/") for name in listing.names]
    for name, parts in zip(listing.names, split, strict=True):
        if len(parts) < depth + 2:
            raise ConfigError(
                f"{where}: '{printable(name)}' lies in no class's folder. Every picture must lie in the folder of its class"
                + (", in train or test." if has_parts else ".")
            )
    of_part = [named[parts[0]] if has_parts else TRAIN for parts in split]
    counts = Counter((part, parts[depth]) for part, parts in zip(of_part, split, strict=True))
    classes = sorted({name for part, name in counts if part == TRAIN})
    _check_classes(listing, where, has_parts, named, counts, classes)
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[parts[depth]] for parts in split], dtype=np.int64)
    return Layout(tuple(printable(name) for name in classes), labels, np.array(of_part, dtype=np.int64))


def _check_classes(
    listing: Listing,
    where: str,
    has_parts: bool,
    named: dict[str, int],
    counts: "Counter[tuple[int, str]]",
    classes: list[str],
) -> None:
    for folder in listing.folders:
        above, _, name = folder.rpartition("/")
        if (above in named if has_parts else not above) and not counts[named[above] if has_parts else TRAIN, name]:
            raise ConfigError(
                f"{where}: the folder '{printable(folder)}' holds no pictures. Every class needs some: fill or remove it."
            )
    for top, part in named.items():
        if has_parts and not any(counted == part for counted, _ in counts):
            raise ConfigError(f"{where}: the folder '{printable(top)}' holds no pictures. Fill or remove it.")
    if len(classes) < 2:
        raise ConfigError(
            f"{where} holds pictures of one class only, '{printable(classes[0])}', and there is nothing to tell apart. "
            "Name the folder that holds one folder for each class."
        )
    strange = sorted(name for part, name in counts if part != TRAIN and name not in classes)
    if strange:
        raise ConfigError(
            f"{where}: '{printable(strange[0])}' is a class that train does not have. "
            f"Classes of train: {', '.join(map(printable, classes[:20]))}."
        )
