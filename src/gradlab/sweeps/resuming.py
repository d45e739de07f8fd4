"""``resume=true``: the earlier sweep of the same points, and what is missing in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.sweeps.record import PRUNED, Point, SweepRecord, read, restore
from gradlab.tracking.folder import RunFolder, SweepFolder


@dataclass(frozen=True)
class Earlier:
    """A sweep in the output folder, as its ``sweep.json`` has it."""

    folder: SweepFolder
    content: dict[str, Any]

    @property
    def ids(self) -> set[str]:
        return {str(point["id"]) for point in self.content["points"]}


def find(output_dir: Path, ids: set[str]) -> Earlier | None:
    """The latest sweep in ``output_dir`` of exactly these points; else of these and others; else of some of these only.

    A sweep that has a point which is not asked for and lacks one which is is another sweep.
    """
    earlier = _in(output_dir)
    same = [sweep for sweep in earlier if sweep.ids == ids]
    larger = [sweep for sweep in earlier if sweep.ids > ids]
    smaller = [sweep for sweep in earlier if ids > sweep.ids > set()]
    return next(iter([*same, *larger, *smaller]), None)


def find_search(output_dir: Path, search: str) -> Earlier | None:
    """The latest sweep in ``output_dir`` that is this search, by its identity."""
    return next((sweep for sweep in _in(output_dir) if sweep.content.get("search", {}).get("id") == search), None)


def _in(output_dir: Path) -> list[Earlier]:
    """The sweeps there, the latest first."""
    paths = sorted(output_dir.glob("*_sweep_*"), reverse=True)  # names begin with the time
    found = [(SweepFolder(path), read(SweepFolder(path))) for path in paths]
    return [Earlier(folder, content) for folder, content in found if content is not None]


def resumed(earlier: Earlier, swept: list[str], points: Sequence[Point], keep_pruned: bool) -> SweepRecord:
    """The earlier sweep's record, gone on with: ``points`` are set to what they came to, and others are kept.

    A point that early stopping has stopped is done for a sweep with early stopping (``keep_pruned``), and missing in one without.
    """
    content = earlier.content
    asked = {point.id: point for point in points}
    merged = []
    for plain in content["points"]:
        point = asked.pop(plain["id"], None) or Point(plain["id"], plain["name"], plain["overrides"], None)
        point.name = plain["name"]
        point.tries, point.status, point.reason = plain["tries"], plain["status"], plain["reason"]
        merged.append(point)
    merged += asked.values()
    restore(merged, earlier.folder)
    wait([point for point in merged if point.config is not None], keep_pruned, earlier.folder)
    keys = [*content["swept"], *(key for key in swept if key not in content["swept"])]
    return SweepRecord(
        earlier.folder, content["id"], content["name"], content["command"], content["created"], keys, merged,
        parent_run_id=content["parent_run_id"], search=content.get("search"),
    )  # fmt: skip


def wait(points: Sequence[Point], keep_pruned: bool, folder: SweepFolder) -> None:
    """Have those of ``points`` that are not done wait for another run, or for going on with one that was killed."""
    for point in points:
        if not point.done or (point.status == PRUNED and not keep_pruned):
            point.goes_on = point.status == "killed" and can_go_on(RunFolder(folder.path / (point.folder or "")))
            point.status, point.reason = "waiting", None


def can_go_on(run: RunFolder) -> bool:
    """Whether a run whose process is gone, or that was ended, has a checkpoint to go on from."""
    return any((run.checkpoints / name).is_dir() for name in ("last", "last.previous"))


def populations(points: Sequence[Point]) -> list[list[Point]]:
    """Those of ``points`` that go on, as they were trained at once: each population those of its members that are left."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        if point.goes_on:
            found.setdefault(point.together or (point.id,), []).append(point)
    return list(found.values())
