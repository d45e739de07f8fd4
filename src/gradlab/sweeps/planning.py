"""How many points of a group are trained at once: what was measured, and what follows from it.

Measurements are remembered for the machine, so that the same command makes the same choice again.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gradlab import environment
from gradlab.data.cache import cache_folder, key_of
from gradlab.sweeps.seats import Seat
from gradlab.tracking.folder import write_atomically

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
ALONE, MEMBER = 0.12, 0.06
"""Seconds that a run costs beside its steps: alone, and as a member. Files, figures of merit, Lightning's beginning and end;
measured on two cores, and only their difference matters."""
SPARE = 0.5
"""Share of a worker's free memory that its population may take."""


def sizes_for(points: int) -> list[int]:
    """The sizes that ``points`` can be trained at."""
    return [size for size in SIZES if size <= max(1, points)]


@dataclass(frozen=True)
class Measured:
    """Of one way: seconds of a step for each member, bytes in all, seconds of compiling before; see ``measuring.Pace``."""

    members: int
    seconds: float
    memory: int
    compiling: float = 0.0

    @property
    def compiled(self) -> bool:
        return self.compiling > 0

    @property
    def fits(self) -> bool:
        """Whether there was the memory for it."""
        return math.isfinite(self.seconds)


@dataclass(frozen=True)
class Plan:
    """A group's choice.

    members: of a population at most; 1 for each point alone.
    measured: what it was chosen from; nothing where it was not chosen by measurement.
    how: it was come to: ``measured``, ``remembered``, or in other words.
    share: bytes that a population may take; 0 where nobody asked.
    compiled: whether the steps are those of one compiled function.
    """

    members: int
    measured: tuple[Measured, ...]
    how: str
    share: int = 0
    compiled: bool = False

    def __str__(self) -> str:
        """``8 at once; a step takes, for each, 400 µs alone, 140 µs 8 at once (measured)``."""
        possible = [one for one in self.measured if one.fits]
        paces = ", ".join(f"{_time(one.seconds)} {_way(one.members, one.compiling)}" for one in possible)
        chosen = _way(self.members, self.compiled)
        told = f"{chosen}; a step takes, for each, {paces}" if paces else chosen
        large = [one for one in self.measured if one.members > 1 and (not one.fits or one.memory > self.share > 0)]
        if large:
            first = min(large, key=lambda one: one.members)
            share = f"a worker may take {_gib(self.share)}" if self.share else "there is less"
            told += f"; {_at_once(first.members)} would take {_gib(first.memory)}, and {share}"
        return f"{told} ({self.how})"

    @property
    def way(self) -> str:
        """What each run's record says."""
        return f"{_way(self.members, self.compiled)} ({self.how})"

    @property
    def steps(self) -> str:
        """``compiled`` or ``eager``: the steps of its runs; see ``speed.choose``."""
        return "compiled" if self.compiled else "eager"


def plan(
    measured: Sequence[Measured], points: int, steps: int, memory: int, how: str = "measured", workers: int = 1
) -> Plan:
    """The way of the least time for ``points`` runs of ``steps`` each.

    Args:
        measured: at least of size 1.
        points: of the group.
        steps: of each.
        memory: bytes that one worker has; 0 where what was measured says what fits, as on a GPU.
        how: they were come by.
        workers: that train them, each of which compiles once.
    """
    share = int(SPARE * memory)
    asked = [one for one in measured if one.members <= points]
    fits = [one for one in asked if one.members == 1 or (one.fits and (not memory or one.memory <= share))]

    def cost(one: Measured) -> float:
        beside = ALONE if one.members == 1 else MEMBER + (ALONE - MEMBER) / one.members
        return one.compiling + points / workers * (steps * one.seconds + beside)

    chosen = min(fits, key=cost)
    return Plan(chosen.members, tuple(asked), how, share, chosen.compiled)


class Memory:
    """What was measured, by group, seat and ``machine``: this one, where that is empty."""

    def __init__(self, folder: Path | None = None, machine: str = "") -> None:
        self.folder = folder or cache_folder(None) / "paces"
        self.machine = machine

    def recall(self, group: str, seat: Seat, points: int) -> list[Measured]:
        """What was measured of this group, for so many points; nothing where it was not."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            told = json.loads(self._file(group, seat, points).read_text())
            return [Measured(**one) for one in told]
        return []

    def keep(self, group: str, seat: Seat, points: int, measured: Sequence[Measured]) -> None:
        """Remember it; where that cannot be, it is measured again next time."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._file(group, seat, points), json.dumps([asdict(one) for one in measured]))

    def _file(self, group: str, seat: Seat, points: int) -> Path:
        machine = (
            self.machine or environment.processor(),
            sorted(environment.versions().items()),
            seat.threads,
            bool(seat.device),
            sizes_for(points)[-1],
        )
        return self.folder / f"{key_of(group, machine)}.json"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2g} GiB"


def _at_once(members: int) -> str:
    return "alone" if members == 1 else f"{members} at once"


def _way(members: int, compiling: float) -> str:
    """``8 at once``; ``alone, compiled (in 7 s)`` of a way with so many seconds of compiling, or True of a choice."""
    if not compiling:
        return _at_once(members)
    return f"{_at_once(members)}, compiled" + ("" if compiling is True else f" (in {compiling:.0f} s)")


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs" if seconds < 0.01 else f"{1e3 * seconds:,.1f} ms"
