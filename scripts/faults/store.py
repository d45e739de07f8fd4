"""The store is locked, or the server is down."""

import functools
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from faults import forked
from faults.commands import QUICK, last_lines, result_of, run_in
from faults.comparison import differences
from faults.registry import Outcome, Setting, fault
from faults.server import Server, installed, postgresql
from gradlab.tracking.store import open_client

DOWN = ("down at the start", "down in the middle", "down at the end", "down for ever")
LONG = ("trainer.max_epochs=150", "trainer.log_every=10 steps")


@fault(full=8)
def locked(setting: Setting, number: int) -> Outcome:
    """SQLite store locked (--seconds) from a random moment on: the run finishes, and sync ships the rest"""
    folder, draw = setting.place(number), setting.draw(number)
    folder.mkdir()
    uri = f"sqlite:///{folder}/mlflow.db"
    if number % 2:  # else the run meets a lock on a database that has no tables yet
        open_client(uri)
    process = forked.start(folder, *QUICK, *LONG, fresh=True, MLFLOW_TRACKING_URI=uri)
    time.sleep(draw.uniform(0, 12))
    database = sqlite3.connect(folder / "mlflow.db", timeout=60, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    until = time.monotonic() + setting.seconds
    try:
        status = _wait(process, lambda: time.monotonic() > until)
    finally:
        database.execute("ROLLBACK")
        database.close()
    return _judge(f"locked for {setting.seconds:.0f} s", folder, process, status, uri, fresh=True)


@fault(full=32)
def server(setting: Setting, number: int) -> Outcome:
    """tracking server (SQLite, PostgreSQL) down at start, middle, end, for ever: the run finishes, and sync ships the rest"""
    kind = DOWN[number % len(DOWN)]
    database = ("SQLite", "PostgreSQL")[number // len(DOWN) % 2 if installed() else 0]
    return _down(setting, number, kind, _server(setting, database), f"{kind}, {database}")


@functools.cache
def _server(setting: Setting, database: str) -> Server:
    """One server for all faults; it is started anew for each as it is."""
    folder = setting.folder / database
    folder.mkdir(exist_ok=True)
    store = setting.cleanup.enter_context(postgresql()) if database == "PostgreSQL" else None
    made = Server(folder, store)
    setting.cleanup.callback(made.down)
    return made


def _down(setting: Setting, number: int, kind: str, server: Server, told: str) -> Outcome:
    folder, draw = setting.place(number), setting.draw(number)
    if kind in ("down in the middle", "down at the end"):
        server.up()
    else:
        server.down()
    process = forked.start(folder, *QUICK, *LONG, MLFLOW_TRACKING_URI=server.uri)
    status = None
    if kind == "down at the start":
        time.sleep(draw.uniform(0, 8))
        server.up(wait=False)
    elif kind == "down in the middle":
        rows = draw.randrange(1, 300)
        status = _wait(process, lambda: _rows(folder) > rows)
        server.down()
        time.sleep(draw.uniform(0.5, 5))
        server.up(wait=False)
    elif kind == "down at the end":
        status = _wait(process, lambda: _rows(folder) > 500)
        server.down()
    status = _wait(process, lambda: False) if status is None else status
    server.up()
    return _judge(told, folder, process, status, server.uri, fresh=False)


def _rows(folder: Path) -> int:
    journals = list(folder.glob("outputs/*/journal.jsonl"))
    return journals[0].read_bytes().count(b'"metrics"') if journals else 0


def _wait(process: int, until: Callable[[], bool]) -> int | None:
    """Wait for a process, or until ``until``; its exit status if it has ended."""
    deadline = time.monotonic() + 300
    while not until() and time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    return None


def _judge(kind: str, folder: Path, process: int, status: int | None, uri: str, fresh: bool) -> Outcome:
    status = forked.ended(process) if status is None else status
    run, err = run_in(folder / "outputs"), (folder / "err.txt").read_text()
    if status != 0 or result_of(run).get("status") != "finished":
        return Outcome(kind, False, f"exit status {status}: {err[-500:]}")
    out = (folder / "out.txt").read_text()
    told = last_lines(out, "rows pending") if "rows pending" in out else "nothing was pending"
    for again in ("first", "second"):
        place = folder / f"{again} sync"
        synced = forked.run(place, "sync", str(run), program="gradlab", fresh=fresh, MLFLOW_TRACKING_URI=uri)
        said = (place / "out.txt").read_text()
        if synced != 0 or (again == "second" and ": 0 rows shipped" not in said):
            return Outcome(kind, False, f"gradlab sync, the {again} time: {said}{(place / 'err.txt').read_text()}")
    compare = functools.partial(differences, run, uri)
    wrong, lost = compare() if fresh else forked.called(compare)
    return Outcome(kind, not wrong, "; ".join(wrong[:5]) or told, lost)
