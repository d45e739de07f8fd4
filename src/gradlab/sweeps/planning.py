"""How many points of a group are trained at once: what was measured, and what follows from it.

Measurements are remembered for the machine, so that the same command makes the same choice again.
"""

import contextlib
import json
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
"""Share of the free memory that a worker's population may take."""


@dataclass(frozen=True)
class Measured:
    """Of one size: seconds of a step for each member, and bytes in all; see ``measuring.Pace``."""

    members: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Plan:
    """A group's choice: ``members`` of a population at most, 1 for each point alone; and what it was chosen from."""

    members: int
    measured: tuple[Measured, ...]
    remembered: bool

    def __str__(self) -> str:
        by_size = {one.members: one.seconds for one in self.measured}
        paces = ", ".join(f"{_time(seconds)} {_at_once(size)}" for size, seconds in by_size.items())
        where = "remembered" if self.remembered else "measured"
        return f"{_at_once(self.members)}; a step takes, for each, {paces} ({where})"


def plan(measured: Sequence[Measured], points: int, steps: int, memory: int, remembered: bool = False) -> Plan:
    """The size of the least time for ``points`` runs of ``steps`` each.

    Args:
        measured: at least of size 1.
        points: of the group.
        steps: of each.
        memory: bytes that one worker may take.
    """
    fits = [one for one in measured if one.members == 1 or (one.members <= points and one.memory <= SPARE * memory)]

    def cost(one: Measured) -> float:
        beside = ALONE if one.members == 1 else MEMBER + (ALONE - MEMBER) / one.members
        return steps * one.seconds + beside

    return Plan(min(fits, key=cost).members, tuple(measured), remembered)


class Memory:
    """What was measured, by group, seat and ``machine``: this one, where that is empty."""

    def __init__(self, folder: Path | None = None, machine: str = "") -> None:
        self.folder = folder or cache_folder(None) / "paces"
        self.machine = machine

    def recall(self, group: str, seat: Seat) -> list[Measured]:
        """What was measured of this group; nothing where it was not."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            told = json.loads(self._file(group, seat).read_text())
            return [Measured(int(one["members"]), float(one["seconds"]), int(one["memory"])) for one in told]
        return []

    def keep(self, group: str, seat: Seat, measured: Sequence[Measured]) -> None:
        """Remember it; where that cannot be, it is measured again next time."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._file(group, seat), json.dumps([asdict(one) for one in measured]))

    def _file(self, group: str, seat: Seat) -> Path:
        machine = (
            self.machine or environment.processor(),
            sorted(environment.versions().items()),
            seat.threads,
            bool(seat.device),
        )
        return self.folder / f"{key_of(group, machine)}.json"


def _at_once(members: int) -> str:
    return "alone" if members == 1 else f"{members} at once"


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs" if seconds < 0.01 else f"{1e3 * seconds:,.1f} ms"
