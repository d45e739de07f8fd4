"""Metric rows into a local store of MLflow: the rows that ``log_batch`` writes, into the same two tables, many at a time.

``log_batch`` makes an object of MLflow's mapper for each number and looks up the latest of each name with each call, 0.2 ms of a
core for a number; a sweep has tens of thousands. Where the database has exactly the tables that are known here (MLflow 2 and 3),
the same rows are inserted by statements; in every other store, ``log_batch`` does it.
"""

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities import Metric

WAIT = 5.0
"""Seconds to wait for a database that another process writes; then it is the shipper's to try again."""
_TABLES = {
    "metrics": {"key", "value", "timestamp", "run_uuid", "step", "is_nan"},
    "latest_metrics": {"key", "value", "timestamp", "run_uuid", "step", "is_nan"},
}
_KEYS = {
    "metrics": ["key", "timestamp", "step", "run_uuid", "value", "is_nan"],
    "latest_metrics": ["key", "run_uuid"],
}
_NAME = re.compile(r"\w[\w.\- :]*(/\w[\w.\- :]*)*", re.ASCII)
_LONGEST_NAME = 250
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


def insert(file: Path, run_id: str, metrics: "Sequence[Metric]") -> bool:
    """Add ``metrics``, of finite values, to a run in the SQLite store ``file``; rows that it has already stay as they are.

    Returns:
        Whether that was possible. Where not (other tables, a run that is deleted, a name that MLflow refuses), nothing was
        changed, and ``log_batch`` will do it or say what is wrong.

    Raises:
        sqlite3.OperationalError: the database is locked, cannot be opened, or has no room.
    """
    names = {row.key for row in metrics}
    if sqlite3.sqlite_version_info < (3, 24) or not all(map(_plain, names)):
        return False
    rows = [(row.key, float(row.value), row.timestamp, row.step, run_id) for row in metrics]
    latest = {}
    for row in sorted(rows, key=lambda row: (row[3], row[2], row[1])):
        latest[row[0]] = row
    with contextlib.closing(
        sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)
    ) as database:
        if not all(_has(database, table) for table in _TABLES):
            return False
        database.execute("BEGIN IMMEDIATE")  # waits for its turn here, before anything is read
        with database:  # commits, or rolls back
            alive = database.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            if alive != ("active",):
                return False
            database.executemany(_INSERT, rows)
            database.executemany(_LATEST, latest.values())
    return True


def _plain(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and bool(_NAME.fullmatch(name))


def _has(database: sqlite3.Connection, table: str) -> bool:
    columns = database.execute(f"PRAGMA table_info({table})").fetchall()
    key = [name for _, name, *_, place in sorted(columns, key=lambda column: column[5]) if place]
    return {name for _, name, *_ in columns} == _TABLES[table] and key == _KEYS[table]
