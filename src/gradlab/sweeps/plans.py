"""The plans of a sweep: for each group of points how many are trained at once, from where that is known, and on record.

``plan.json`` in the sweep's folder has the choices and what they were made from, for readers, for a resumed sweep, which keeps
them, and for ``hydra.launcher.plan``, by which another sweep takes them over.
"""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab.data.cache import key_of
from gradlab.errors import ConfigError
from gradlab.sweeps.planning import Measured, Memory, Plan
from gradlab.sweeps.planning import plan as make_plan
from gradlab.sweeps.record import Point
from gradlab.sweeps.seats import Seat
from gradlab.tracking.folder import SweepFolder, write_atomically
from gradlab.tracking.journal import Journal

FILE = "plan.json"


class Plans:
    """The plans of one sweep.

    Args:
        folder: of the sweep.
        journal: of the sweep, for its record.
        seat: what each worker may use.
        machine: whose measurements are remembered; see ``planning.Memory``.
        workers: of the sweep, at most.
        pinned: choices by group, from another sweep: see ``pinned``.
    """

    def __init__(
        self,
        folder: SweepFolder,
        journal: Journal,
        seat: Seat,
        machine: str = "",
        workers: int = 1,
        pinned: dict[str, Plan] | None = None,
    ) -> None:
        self.file = folder.path / FILE
        self.journal = journal
        self.seat = seat
        self.workers = workers
        self.pinned = pinned or {}
        self._memory = Memory(machine=machine)
        self._made: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._made = {entry["group"]: entry for entry in json.loads(self.file.read_text())["groups"]}
        self._kept = dict(self._made)

    def known(self, group: str, points: Sequence[Point], memory: int) -> Plan | None:
        """The plan of a group, if none has to be measured for it: pinned, that of the sweep before it was resumed, or remembered."""
        key = key_of(group)
        if key in self.pinned:
            return self._on_record(group, points, self.pinned[key])
        if key in self._kept:
            return dataclasses.replace(_plan_of(self._kept[key]), how="as before")
        recalled = self._memory.recall(group, self.seat, len(points))
        return self._chosen(group, points, recalled, memory, "remembered") if recalled else None

    def lacks(self, group: str) -> bool:
        """Whether a plan was pinned that says nothing of this group."""
        return bool(self.pinned) and key_of(group) not in self.pinned

    def measured(self, group: str, points: Sequence[Point], paces: Sequence[Measured], memory: int) -> Plan:
        """The plan that follows from a measurement, which is remembered."""
        self._memory.keep(group, self.seat, len(points), paces)
        return self._chosen(group, points, paces, memory, "measured")

    def _chosen(self, group: str, points: Sequence[Point], paces: Sequence[Measured], memory: int, how: str) -> Plan:
        assert points[0].config is not None
        steps = points[0].config.horizon.total_steps
        memory = 0 if self.seat.device else memory  # that of a GPU is its worker's to tell
        return self._on_record(group, points, make_plan(paces, len(points), steps, memory, how, self.workers))

    def _on_record(self, group: str, points: Sequence[Point], plan: Plan) -> Plan:
        assert points[0].config is not None
        about = f"{len(points)} points of {points[0].config.optimizer_name}"
        entry = {"group": key_of(group), "about": about, "told": str(plan), **dataclasses.asdict(plan)}
        self._made[entry["group"]] = entry
        with contextlib.suppress(OSError):  # a full disk
            write_atomically(
                self.file, json.dumps({"version": 1, "groups": list(self._made.values())}, indent=1) + "\n"
            )
            self.journal.write("tags", tags={"gradlab.plan": "\n".join(self.lines)})
            self.journal.artifact(self.file)
        return plan

    @property
    def lines(self) -> list[str]:
        """The plans in words."""
        return [f"{entry['about']}: {entry['told']}" for entry in self._made.values()]


def _plan_of(entry: dict[str, Any]) -> Plan:
    """The choice of an entry of ``plan.json``."""
    made = Plan(int(entry["members"]), (), "pinned", compiled=bool(entry["compiled"]))
    if made.members < 1:
        raise ValueError("damaged")
    return made


def pinned(given: str | None) -> dict[str, Plan]:
    """The choices by group in the plan of an earlier sweep: ``given`` is its folder, or its ``plan.json``.

    Raises:
        ConfigError: there is no plan.
    """
    if given is None:
        return {}
    path = Path(given).expanduser()
    file = path / FILE if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
        found = {str(entry["group"]): _plan_of(entry) for entry in content["groups"]}
        if content["version"] != 1:
            raise ValueError("of another version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"hydra.launcher.plan={given}: {file} holds no plan ({said}). Name the folder of a sweep whose points were trained in "
            f"populations, or its {FILE}; or say how many at once by hydra.launcher.population."
        ) from error
    return found
