"""What a fault is, and what came of one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """How often, where and with what. ``seconds`` is for how long a store is locked, ``data`` the folder of MNIST/raw."""

    count: int
    folder: Path
    seed: int
    data: Path
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """One fault. ``said`` is what the user saw, or what went wrong; ``rows_lost`` counts metric rows."""

    kind: str
    survived: bool
    said: str
    rows_lost: int = 0


Fault = Callable[[Setting], Iterator[Outcome]]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    """Register a function that yields as many outcomes as its setting counts."""

    def register(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return register
