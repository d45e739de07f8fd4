"""Files that took long to make, kept in a folder for the next run.

An entry is a folder, named by a key that says all that its content depends on. It is made under another name and renamed
when it is whole, and it holds the SHA-256 of each of its files, which is checked whenever the entry is used: an entry that
was torn or damaged is made anew. The folder may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gradlab.errors import DataError
from gradlab.interruption import stop_if_asked

_CONTENTS = "contents.json"


def cache_folder(given: str | None) -> Path:
    """The folder ``given``; else ``gradlab`` in the user's own cache folder, as freedesktop.org's standard has it."""
    if given is not None:
        return Path(given).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "gradlab"


def key_of(*parts: object) -> str:
    """A key that differs wherever any of ``parts`` does: 32 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Cache:
    """The entries in ``folder``. Any number of processes may use them at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entry(
        self, key: str, make: Callable[[Path], object], is_stale: Callable[[Path], bool] = lambda entry: False
    ) -> Path:
        """The folder of the entry ``key``, whole. Where there is none, or a stale one, ``make`` fills an empty folder.

        Raises:
            DataError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked(key):
                entry = self.folder / key
                if not _is_whole(entry) or is_stale(entry):
                    self._make(entry, make)
        except OSError as error:
            raise DataError(
                f"The cache folder {self.folder} cannot be used: {error.strerror or error}. "
                "Name another with data.cache_dir=…, or make room in it."
            ) from error
        return entry

    def has(self, key: str) -> bool:
        """Whether there is an entry ``key``, whole or not."""
        return (self.folder / key).is_dir()

    def _make(self, entry: Path, make: Callable[[Path], object]) -> None:
        for left_behind in self.folder.glob(f"{entry.name}.*.tmp"):  # by a process that was killed: we hold its lock
            shutil.rmtree(left_behind, ignore_errors=True)
        temporary = self.folder / f"{entry.name}.{secrets.token_hex(4)}.tmp"
        temporary.mkdir(mode=0o700)
        try:
            make(temporary)
            contents = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
            (temporary / _CONTENTS).write_text(json.dumps(contents))
            if entry.exists():  # damaged; whoever still reads it keeps its files
                shutil.rmtree(entry)
            temporary.rename(entry)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Alone with the entry: a second run waits and then finds it, instead of making it too."""
        with (self.folder / f"{key}.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    stop_if_asked()
                    time.sleep(0.1)
            yield


def _is_whole(entry: Path) -> bool:
    try:
        contents = json.loads((entry / _CONTENTS).read_text())
        names = {file.name for file in entry.iterdir()} - {_CONTENTS}
        return set(contents) == names and all(_sha256(entry / name) == digest for name, digest in contents.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(1 << 22):
            stop_if_asked()
            digest.update(piece)
    return digest.hexdigest()
