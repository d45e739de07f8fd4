"""A process that kills itself at one of its changes of the disk."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGES = ("fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "truncate", "ftruncate")


@dataclass(frozen=True)
class Death:
    """SIGKILL at change number ``change`` of the disk, counted from 1: before it, or right ``after``.

    A write that it dies in, before its end, has written half.
    """

    change: int
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} change {self.change} of the disk"


def die(death: Death | None) -> Callable[[], int]:
    """From here on this process counts its changes of the disk, and dies as told. Returns how many there were."""
    made = 0

    def watched(function: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if death and made == death.change and not death.after:
                if half:
                    half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            mine = made  # what it calls may change the disk, too
            try:
                return function(*arguments, **named)
            finally:
                if death and mine == death.change:
                    os.kill(os.getpid(), signal.SIGKILL)

        return called

    for name in CHANGES:
        setattr(os, name, watched(getattr(os, name)))
    opened = Path.open

    def open_watched(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode in ("w", "wb", "ab"):  # a write is one to the disk, not to a buffer
            file = _Watched(opened(path, mode.replace("b", "") + "b", 0))
            file.write = watched(file.write_whole, file.write_half)
            return file
        return opened(path, mode, *arguments, **named)

    Path.open = open_watched  # type: ignore[method-assign,assignment]
    return lambda: made


class _Watched:
    """An unbuffered file whose ``write`` may be made another; it takes text, too."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.write: Callable[..., int] = self.write_whole

    def write_whole(self, content: "str | bytes") -> int:
        return int(self.file.write(_bytes(content)))

    def write_half(self, content: "str | bytes") -> int:
        whole = _bytes(content)
        return int(self.file.write(whole[: len(whole) // 2]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Watched":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def _bytes(content: "str | bytes") -> bytes:
    return content.encode() if isinstance(content, str) else content
