"""Fetching a published file: over https only, checked against its size and MD5, and there as a whole or not at all."""

import contextlib
import fcntl
import glob
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gradlab.data.files import checksum_of
from gradlab.errors import DataError

if TYPE_CHECKING:
    import ssl
    import urllib.request

SECONDS = 30.0
"""How long a server may keep silent."""
BLOCK = 1 << 18


@dataclass(frozen=True)
class Download:
    """A file as its publisher offers it.

    path: where it belongs below ``data.root``.
    size: in bytes.
    md5: hexadecimal. It is what publishers give; against forgery stand https and its certificates.
    addresses: all of the same file, tried in this order.
    """

    path: str
    size: int
    md5: str
    addresses: tuple[str, ...]


def fetch(download: Download, root: Path, context: "ssl.SSLContext | None" = None) -> Path:
    """Fetch a file to its place below ``root``; one that is there already is left alone. Returns where it is.

    It is written under a temporary name beside that place, checked, flushed to the disk, and renamed. Of several
    processes that want it at once one fetches it and the others wait for it.

    Args:
        download: what to fetch.
        root: the folder of all datasets; made where it is missing.
        context: what to trust; None for the system's certificates.

    Raises:
        DataError: no address gave the file, or it cannot be written.
    """
    file = (root / download.path).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(file):
            if not file.is_file():
                _from_any_address(download, file, context)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written: {error.strerror or error}. Name a folder that can be with data.root=…."
        ) from error
    return file


class _AddressError(Exception):
    """An address did not give the file; the message says why."""


def _from_any_address(download: Download, file: Path, context: "ssl.SSLContext | None") -> None:
    reasons = []
    for address in download.addresses:
        try:
            return _from(address, download, file, context)
        except _AddressError as reason:
            reasons.append(f"{address}: {reason}")
    raise DataError(
        f"{file.name} could not be downloaded. {'; '.join(reasons)}. Check the network and run this again, or fetch the "
        f"file elsewhere and put it at {file} ({download.size:,} bytes, MD5 {download.md5})."
    )


def _from(address: str, download: Download, file: Path, context: "ssl.SSLContext | None") -> None:
    """Fetch from one address. What is wrong with the answer is ``_AddressError``, with the disk an ``OSError``."""
    with _temporary(file) as (part, name):
        with _answer(address, context) as answer, _Progress(file, address, download.size) as progress:
            size = 0
            while block := _block(answer):
                size += len(block)
                if size > download.size:
                    raise _AddressError(f"it sends more than the {download.size:,} bytes that the file has")
                part.write(block)
                progress.at(size)
        if size < download.size:
            raise _AddressError(f"the connection ended after {size:,} of {download.size:,} bytes")
        part.seek(0)
        found = checksum_of(part)
        if found != download.md5:
            raise _AddressError(f"it sends another file: the MD5 checksum is {found}, and it must be {download.md5}")
        part.flush()
        os.fsync(part.fileno())
        name.replace(file)
        _flush_folder(file.parent)


def _answer(address: str, context: "ssl.SSLContext | None") -> Any:
    import http.client
    import urllib.error

    if urlsplit(address).scheme != "https":
        raise _AddressError("it is no https address")
    try:
        return _opener(context).open(address, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise _AddressError(f"the server answers {error.code} {' '.join(str(error.reason).split())}") from error
    except urllib.error.URLError as error:
        raise _AddressError(str(error.reason)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _AddressError(str(error) or type(error).__name__) from error


def _block(answer: Any) -> bytes:
    import http.client

    try:
        return bytes(answer.read(BLOCK))
    except http.client.IncompleteRead as error:
        return bytes(error.partial)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _AddressError(f"the connection broke ({error or type(error).__name__})") from error


def _opener(context: "ssl.SSLContext | None") -> "urllib.request.OpenerDirector":
    """What opens https addresses, follows redirects to others of them, uses the environment's proxy, and knows no more."""
    import ssl
    import urllib.request

    class OnlyHttps(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if urlsplit(newurl).scheme != "https":
                raise _AddressError(f"it redirects to {newurl}, which is not https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=context or ssl.create_default_context()),
        OnlyHttps(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "gradlab")]  # some mirrors refuse urllib's own
    return opener


@contextlib.contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    """Within it this process alone fetches ``file``, as far as the file system has locks.

    Where it has none, several may: each writes to a name of its own and renames a whole file, so that does no harm.
    """
    lock = file.with_name(f".{file.name}.lock")
    while True:
        with lock.open("ab") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:
                yield
                return
            if not _is(handle, lock):
                continue  # whoever had it before has removed it, and the next one may have made another
            for left in file.parent.glob(f".{glob.escape(file.name)}.*.part"):
                left.unlink(missing_ok=True)  # of a process that was killed: a living one would have the lock
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is(handle: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _temporary(file: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file of another name beside ``file``, open, and that name; gone afterwards unless it was renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=file.parent)
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())  # mkstemp's own is for its user alone
        with os.fdopen(descriptor, "w+b") as part:
            yield part, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)  # there is no other way to read it
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Progress:
    """One line on stderr: on a terminal it counts, elsewhere it says what is fetched from where."""

    def __init__(self, file: Path, address: str, size: int) -> None:
        self._text = (
            f"Downloading {file.name} ({size / 1e6:,.3g} MB) from {urlsplit(address).hostname} to {file.parent}"
        )
        self._size = size
        self._counts = sys.stderr.isatty()
        self._told = -1.0

    def __enter__(self) -> "_Progress":
        print(self._text, end=" " if self._counts else "\n", file=sys.stderr, flush=True)
        return self

    def at(self, size: int) -> None:
        if self._counts and (size == self._size or time.monotonic() - self._told > 0.2):
            self._told = time.monotonic()
            print(f"\r{self._text}: {size / self._size:4.0%}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        if self._counts:
            print(file=sys.stderr)
