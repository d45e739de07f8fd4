"""Metrics, tags and parameters into a local store of MLflow: the rows that ``log_batch`` writes, into the same tables, many at a time.

``log_batch`` makes an object of MLflow's mapper for each of them and looks up what is there with each call, 0.2 ms of a
core for a number; a sweep has tens of thousands. Where the database has exactly the tables that are known here (MLflow 2 and 3),
the same rows are inserted by statements; in every other store, ``log_batch`` does it.
"""

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlflow.entities import Metric

WAIT = 5.0
"""Seconds to wait for a database that another process writes; then it is the shipper's to try again."""
_NUMBERS = {"key", "value", "timestamp", "run_uuid", "step", "is_nan"}
_TABLES = {
    "metrics": (_NUMBERS, ["key", "timestamp", "step", "run_uuid", "value", "is_nan"]),
    "latest_metrics": (_NUMBERS, ["key", "run_uuid"]),
    "tags": ({"key", "value", "run_uuid"}, ["key", "run_uuid"]),
    "params": ({"key", "value", "run_uuid"}, ["key", "run_uuid"]),
}
"""Columns, and the primary key."""
_NAME = re.compile(r"\w[\w.\- :]*(/\w[\w.\- :]*)*", re.ASCII)
_LONGEST_NAME, _LONGEST_TAG, _LONGEST_PARAM = 250, 8000, 6000
_MEANS_MORE = "mlflow.runName"
"""A tag that is a column of another table too."""
_INSERT = """
    INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)
    ON CONFLICT (key, timestamp, step, run_uuid, value, is_nan) DO NOTHING
"""
_LATEST = """
    INSERT INTO latest_metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)
    ON CONFLICT (key, run_uuid) DO UPDATE
    SET value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan
    WHERE (excluded.step, excluded.timestamp, excluded.value)
        > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)
"""


_TAG = """
    INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?) ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value
"""
_PARAM = "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?) ON CONFLICT (key, run_uuid) DO NOTHING"
_STILL = """
    SELECT 1 FROM tags JOIN runs USING (run_uuid)
    WHERE key = ? AND tags.run_uuid = ? AND tags.value = ? AND lifecycle_stage = 'active' AND experiment_id = ?
"""


def insert(
    file: Path,
    run_id: str,
    metrics: "Sequence[Metric]" = (),
    tags: "Mapping[str, str] | None" = None,
    params: "Mapping[str, str] | None" = None,
) -> bool:
    """Add ``metrics``, of finite values, ``tags`` and ``params`` to a run in the SQLite store ``file``.

    Rows that it has already stay as they are; a tag of the same name gets the new value.

    Returns:
        Whether that was possible. Where not (other tables, a run that is deleted, a name that MLflow refuses, a parameter that has
        another value), nothing was changed, and ``log_batch`` will do it or say what is wrong.

    Raises:
        sqlite3.OperationalError: the database is locked, cannot be opened, or has no room.
    """
    tags, params = tags or {}, params or {}
    if not _acceptable({row.key for row in metrics}, tags, params):
        return False
    rows = [(row.key, float(row.value), row.timestamp, row.step, run_id) for row in metrics]
    latest = {}
    for row in sorted(rows, key=lambda row: (row[3], row[2], row[1])):
        latest[row[0]] = row
    tables = ["metrics", "latest_metrics"] * bool(rows) + ["tags"] * bool(tags) + ["params"] * bool(params)
    with _opened(file) as database:
        if not all(_has(database, table) for table in tables):
            return False
        database.execute("BEGIN IMMEDIATE")  # waits for its turn here, before anything is read
        with database:  # commits, or rolls back
            alive = database.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            if alive != ("active",):
                return False
            there = (
                dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,))) if params else {}
            )
            if any(there.get(key, value) != value for key, value in params.items()):
                return False
            database.executemany(_INSERT, rows)
            database.executemany(_LATEST, latest.values())
            database.executemany(_TAG, [(key, value, run_id) for key, value in tags.items()])
            database.executemany(_PARAM, [(key, value, run_id) for key, value in params.items()])
    return True


def tagged(file: Path, experiment: str, key: str, value: str) -> list[str] | None:
    """The runs of an experiment that have a tag, those deleted left out; None where only MLflow can tell.

    There is no index of values: what was read once of tags with this key is remembered, so that thousands of questions do not
    read thousands of rows each. A value that was changed since then is found under the old one only, and so not at all.

    Raises: what ``insert`` raises.
    """
    with _opened(file) as database:
        if not _has(database, "tags"):
            return None
        known = _known.setdefault((file, key), _Known())
        known.read_on(database, key)
        return [
            run
            for run in known.runs.get(value, [])
            if database.execute(_STILL, (key, run, value, int(experiment))).fetchone()
        ]


class _Known:
    """The runs by the values of their tags of one key, as far as ``last``, the newest row of the table when it was read."""

    def __init__(self) -> None:
        self.last: tuple[int, str, str] = (0, "", "")
        self.runs: dict[str, list[str]] = {}

    def read_on(self, database: sqlite3.Connection, key: str) -> None:
        """Read what has come since. A new row has a number beyond the newest one's, which is there as long as that is."""
        newest = "SELECT rowid, key, run_uuid FROM tags WHERE rowid = ?"
        if database.execute(newest, self.last[:1]).fetchone() != self.last:
            self.last, self.runs = (0, "", ""), {}
        last = database.execute(newest.replace("?", "(SELECT max(rowid) FROM tags)")).fetchone()
        rows = "SELECT value, run_uuid FROM tags WHERE rowid > ? AND rowid <= ? AND key = ?"
        if last is not None:
            for value, run in database.execute(rows, (self.last[0], last[0], key)):
                self.runs.setdefault(value, []).append(run)
            self.last = last


_known: dict[tuple[Path, str], _Known] = {}


def _opened(file: Path) -> "contextlib.closing[sqlite3.Connection]":
    return contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None))


def _acceptable(names: set[str], tags: "Mapping[str, str]", params: "Mapping[str, str]") -> bool:
    """Whether MLflow would take them as they are, as far as that is known here."""
    return (
        sqlite3.sqlite_version_info >= (3, 24)
        and all(map(_plain, (*names, *tags, *params)))
        and all(len(value) <= _LONGEST_TAG for value in tags.values())
        and all(len(value) <= _LONGEST_PARAM for value in params.values())
        and _MEANS_MORE not in tags
    )


def _plain(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and bool(_NAME.fullmatch(name))


def _has(database: sqlite3.Connection, table: str) -> bool:
    columns = database.execute(f"PRAGMA table_info({table})").fetchall()
    key = [name for _, name, *_, place in sorted(columns, key=lambda column: column[5]) if place]
    return ({name for _, name, *_ in columns}, key) == _TABLES[table]
