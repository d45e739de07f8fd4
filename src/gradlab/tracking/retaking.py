"""Going on with a journal: what a run wrote after its last checkpoint is cut off, and written again as the steps are made again.

Rows that were cut may be in MLflow already, and MLflow keeps one of equal rows: equal in their time, too. So the cut rows are
kept in a file beside the journal, and a row that comes out as it was is written as it was. What a clock has measured in it
(images per second) is taken from the first time.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from gradlab.tracking.folder import RunFolder, write_atomically
from gradlab.tracking.journal import Record, records

TIMED = ("throughput/",)
"""Beginnings of the names of metrics that a clock measures: they differ from one time to the next."""

Key = tuple[int, frozenset[str]]


class RetakenRows:
    """The metric rows that were cut from the journal of a run, by their step and names.

    ``differs`` is the first step at which another row came out than there had been, if any: on another machine, for instance.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._rows = {_key(record): record for record in _kept(folder)}
        self.differs: int | None = None

    def take(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        known = self._rows.pop((step, frozenset(values)), None)
        if known is None:
            return {}
        if _but_timed(known["values"]) != _but_timed(values):
            self.differs = step if self.differs is None else self.differs
            return {}
        return {"time": known["time"], "values": known["values"]}


def cut(folder: RunFolder, offset: int) -> None:
    """Cut the journal behind its first ``offset`` bytes, keeping the metric rows that were there beside it.

    A crash at any instant of it leaves what the next call makes the same of. Nobody else may read or write the journal
    meanwhile.
    """
    _rewind(folder, offset)
    tail = [record for record, _ in records(folder.journal, offset) if record["kind"] == "metrics"]
    if tail:
        rows = {_key(record): record for record in [*_kept(folder), *tail]}
        write_atomically(folder.cut_rows, "".join(json.dumps(record) + "\n" for record in rows.values()))
    with folder.journal.open("r+b") as file:
        file.truncate(offset)
        os.fsync(file.fileno())


def line_end(journal: Path, offset: int) -> int:
    """The end of the last whole line within the first ``offset`` bytes."""
    with journal.open("rb") as file:
        return file.read(offset).rfind(b"\n") + 1


def begun(journal: Path) -> tuple[Record, int] | None:
    """The first record, which says what run it is, and the offset behind it; None where there is none yet."""
    with contextlib.suppress(OSError, ValueError):
        return next(records(journal), None)
    return None


def _rewind(folder: RunFolder, offset: int) -> None:
    """Have whoever ships the journal ship it again from ``offset`` on, where it had come further."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state = json.loads(folder.shipped.read_text())
        if state["offset"] > offset:
            state |= {"offset": offset, "ended": False}
            write_atomically(folder.shipped, json.dumps(state, indent=2) + "\n")


def _kept(folder: RunFolder) -> list[Record]:
    try:
        return [json.loads(line) for line in folder.cut_rows.read_text().splitlines()]
    except FileNotFoundError:
        return []


def _key(record: Record) -> Key:
    return record["step"], frozenset(record["values"])


def _but_timed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith(TIMED)}
