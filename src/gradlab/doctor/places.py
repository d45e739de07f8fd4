"""The MLflow store and the disks: there, of the right version, writable, with room."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradlab.disk import free_bytes
from gradlab.doctor.finding import GOOD, NOTE, WRONG, Finding
from gradlab.errors import FieldError
from gradlab.secrecy import redacted
from gradlab.settings import check_store, without_secret
from gradlab.tracking.store import sqlite_file, tracking_uri

ENOUGH, LITTLE = 5 * 10**9, 5 * 10**8
"""Free bytes below which a disk is worth a note, and below which it is a fault."""


def look_at_store(uri: str | None) -> Iterator[Finding]:
    """The store that runs in this folder are shipped to."""
    store = tracking_uri(uri)
    shown = without_secret(store)
    try:
        check_store(store)
    except FieldError as error:
        yield Finding("store", WRONG, f"MLFLOW_TRACKING_URI or --uri {error.message}", "Name another.")
        return
    file = sqlite_file(store)
    if file is not None:
        yield from _look_at_file(file)
        return
    try:
        from gradlab.tracking.store import open_client

        found = len(open_client(store).search_experiments())
        yield Finding("store", GOOD, f"{shown} answers, and has {found} experiments")
    except Exception as error:  # whatever the store raises
        said = redacted(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        advice = (
            "Start it, or name another store with MLFLOW_TRACKING_URI. Runs train without it; gradlab sync ships later."
        )
        if "No module named 'psycopg" in said:
            advice = "pip install 'gradlab[postgresql]'"
        yield Finding("store", WRONG, f"{shown} does not answer: {said[:300]}", advice)


def _look_at_file(file: Path) -> Iterator[Finding]:
    if not file.exists():
        yield Finding("store", NOTE, f"{file} is not there yet: the first run makes it")
        return
    if not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK):
        yield Finding(
            "store", WRONG, f"{file} or its folder may not be written to", f"chmod u+w '{file}' '{file.parent}'"
        )
    try:
        database = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=5)
        try:
            whole = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            version = (
                database.execute("SELECT version_num FROM alembic_version").fetchone()
                if "alembic_version" in tables
                else None
            )
            runs = database.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        finally:
            database.close()
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        advice = (
            "Another process is writing to it; runs train on, and gradlab sync ships the rest."
            if locked
            else (f"Move '{file}' away and ship the journals into a new store: gradlab sync outputs/*")
        )
        yield Finding("store", WRONG, f"{file}: {error}", advice)
        return
    if whole != "ok":
        advice = f"Move '{file}' away and ship the journals into a new store: gradlab sync outputs/*"
        yield Finding("store", WRONG, f"{file} is damaged: {whole}", advice)
        return
    wanted = _schema()
    found = version[0] if version else None
    if found != wanted:
        advice = f"Make a copy of it, then: mlflow db upgrade sqlite:///{file}"
        yield Finding("store", WRONG, f"{file} has schema {found or 'none'}, and this MLflow wants {wanted}", advice)
    else:
        yield Finding("store", GOOD, f"{file}: {runs:,} runs, schema {wanted}, writable")
    if file.stat().st_mode & 0o077:
        yield Finding("store", NOTE, f"{file} can be read by other users of this machine", f"chmod 600 '{file}'")


def _schema() -> str:
    """The schema version of the MLflow that is installed."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())  # type: ignore[no-untyped-call]


def look_at_disks(output_dir: Path, uri: str | None) -> Iterator[Finding]:
    """Room where runs, the store and temporary files go."""
    places = {"runs": output_dir.absolute(), "temporary files": Path(tempfile.gettempdir())}
    if file := sqlite_file(tracking_uri(uri)):
        places["the store"] = file.parent
    for what, path in places.items():
        there = path
        while not there.exists():
            there = there.parent
        free = free_bytes(path)
        inodes = os.statvfs(there).f_favail
        said = f"{free / 1e9:,.1f} GB free for {what} ({path})"
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding("disk", WRONG, f"this user may not write to {there}, for {what}", "Name another folder.")
        elif free < LITTLE or (os.statvfs(there).f_files and inodes < 1000):
            said = said if free < LITTLE else f"room for {inodes} more files for {what} ({path})"
            yield Finding(
                "disk", WRONG, said, "Make room: old runs' checkpoints are the largest part of their folders."
            )
        else:
            yield Finding("disk", NOTE if free < ENOUGH else GOOD, said)
