"""One process to a run: it holds a lock in the run's folder for as long as it lives, and no other can go on with the run."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator

from gradlab.errors import ConfigError, GradlabError
from gradlab.tracking.folder import RunFolder

SHIPPING = 60.0
"""Seconds for which the shipper of a run that was killed is waited for; it gives up by itself before that."""


class Held:
    """The lock on a run. The system releases it when this process ends, however it does.

    Args:
        folder: of the run.

    Raises:
        ConfigError: another process has it: the run still runs.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._descriptor: int | None = os.open(folder.running, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(self._descriptor)
            self.release()
            raise ConfigError(
                f"The run in {folder.path} is still running{owner}. End it first (Ctrl-C there, or SIGTERM), which writes a "
                "checkpoint; then go on with it."
            ) from None
        os.register_at_fork(after_in_child=self.release)  # what it forks may outlive it
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _owner(descriptor: int) -> str:
    with contextlib.suppress(ValueError, KeyError, OSError):
        told = json.loads(os.pread(descriptor, 1000, 0))
        return f" (process {told['process']} on {told['host']})"
    return ""


@contextlib.contextmanager
def journal_held(folder: RunFolder) -> Iterator[bool]:
    """Holds a journal for a moment, for shipping it, and says whether it was to be had: see ``unshipped``."""
    with folder.journal.open() as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def unshipped(folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Within it, nobody ships the journal. The shipper of a run that was killed ends by itself, and is waited for.

    Raises:
        GradlabError: somebody ships it, and does not end.
    """
    with folder.journal.open() as journal:
        deadline, said = time.monotonic() + SHIPPING, False
        while True:
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GradlabError(
                        f"{folder.journal} is still being shipped to MLflow after {SHIPPING:.0f} s. Try again when that has ended."
                    ) from None
            if not said:
                said = True
                say("waiting until the rows of its earlier process are in MLflow")
            time.sleep(0.1)
        yield
