"""A disk that takes no more: said with the path, the bytes that did not fit and those that are left."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from gradlab.errors import GradlabError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "this user's quota is used up",
    errno.EFBIG: "a file may not become that large here",
}


class DiskFullError(GradlabError, OSError):
    """A file could not be written, because there is no room for it."""


@contextlib.contextmanager
def room_for(path: Path, size: int | None = None) -> Iterator[None]:
    """Within it, a write to ``path`` that finds no room raises a ``DiskFullError``. ``size`` is in bytes, where known."""
    try:
        yield
    except OSError as error:
        raise (full(error, path, size) or error) from error


def full(error: BaseException, path: Path, size: int | None = None) -> DiskFullError | None:
    """What to raise instead of ``error`` where it says that there is no room; else None."""
    if isinstance(error, DiskFullError) or not isinstance(error, OSError) or error.errno not in FULL:
        return None
    needed = "the next bytes" if size is None else f"{size:,} bytes"
    return DiskFullError(
        f"{needed} could not be written to {path}: {FULL[error.errno]}, with {free_bytes(path):,} bytes free. "
        "Make room, or name another place with output_dir=…. What was written before, checkpoints too, is whole."
    )


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the file system of ``path``, which need not exist yet."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
