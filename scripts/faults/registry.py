"""What a fault is, and what came of one."""

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """Where and with what faults are made.

    folder: of this kind of fault, which is there.
    seed: of moments, sizes and kinds.
    data: the folder that holds MNIST/raw.
    seconds: for which a store is locked.
    cleanup: is closed when all are made.
    """

    folder: Path
    seed: int
    data: Path
    seconds: float
    cleanup: contextlib.ExitStack

    def place(self, number: int) -> Path:
        """Where fault ``number`` is made; nothing is there yet."""
        return self.folder / str(number)

    def draw(self, number: int) -> random.Random:
        """What decides about fault ``number``; the same whichever others are made."""
        return random.Random(f"{self.seed} {number}")


@dataclass(frozen=True)
class Outcome:
    """One fault. ``said`` is what the user saw, or what went wrong; rows are metric rows of the journal."""

    kind: str
    survived: bool
    said: str
    rows_lost: int = 0
    rows_doubled: int = 0


@dataclass(frozen=True)
class Fault:
    """``make`` makes fault number 0, 1, 2, …; ``full`` is the count that `docs/faults.md` is about."""

    name: str
    full: int
    make: Callable[[Setting, int], Outcome]

    @property
    def title(self) -> str:
        return (self.make.__doc__ or "").splitlines()[0]


FAULTS: dict[str, Fault] = {}


def fault(full: int) -> Callable[[Callable[[Setting, int], Outcome]], Callable[[Setting, int], Outcome]]:
    """Register a function as the fault of its name."""

    def register(make: Callable[[Setting, int], Outcome]) -> Callable[[Setting, int], Outcome]:
        name = make.__name__
        FAULTS[name] = Fault(name, full, make)
        return make

    return register
