"""Ctrl-C and SIGTERM: a training ends after the step it is in, with a checkpoint; anything else ends at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end. ``signum`` says which; without one it was Ctrl-C."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.signum = signum


_current: "Interruption | None" = None


def stop_if_asked() -> None:
    """Raise ``Interrupted`` where the run of this process was asked to end; for long work in other threads.

    Python raises for a signal in the main thread only, which cannot leave before its threads have ended.
    """
    if _current is not None and _current.signum is not None:
        raise Interrupted(_current.signum)


class Interruption:
    """Within it, the first signal that asks the run to end is remembered in ``signum``.

    While training, a first signal only sets ``signum``, and the training step ends the training between two steps. A
    second one, and any signal outside training, raises ``Interrupted``.

    ``pruned`` has, by their points, the runs that a sweep has given up, and why; their training ends with the chunk.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.pruned: dict[str, str] = {}
        self._training = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether the run was asked to end."""
        return self.signum is not None

    def __enter__(self) -> "Interruption":
        global _current
        self._install()
        _current = self
        return self

    def __exit__(self, *exception: object) -> None:
        global _current
        _current = None
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def training_begins(self) -> None:
        """From here on a signal waits for the end of a step.

        Lightning has meanwhile put a SIGTERM handler of its own in place, which would end the process with status 0.
        """
        self._install()
        self._training = True

    def training_ends(self) -> None:
        self._training = False

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Within it a first signal waits until its end, where it raises: for what must be done whole or not at all."""
        before, self._training = self._training, True
        try:
            yield
        finally:
            self._training = before
        if self.signum is not None and not before:
            raise Interrupted(self.signum)

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python takes signals in the main thread only
        for signum in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(signum, self._handle)
            self._before.setdefault(signum, before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again = self.signum is not None
        self.signum = signum
        if again or not self._training:
            raise Interrupted(signum)
