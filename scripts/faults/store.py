"""The store is locked, or the server is down."""

import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.commands import QUICK, gradlab, last_lines, result_of, run_in, start
from faults.comparison import differences
from faults.registry import Outcome, Setting, fault
from faults.server import Server
from gradlab.tracking.store import open_client

KINDS = ("locked", "down at the start", "down in the middle", "down at the end", "down for ever")
LONG = ("trainer.max_epochs=300", "trainer.log_every=20 steps")


@fault("store")
def store(setting: Setting) -> Iterator[Outcome]:
    """store locked (--seconds), server down at start, middle, end, for ever: the run finishes, and sync ships the rest"""
    for number in range(setting.count):
        kind = KINDS[number % len(KINDS)]
        draw = random.Random(f"{setting.seed} {number}")
        folder = setting.folder / str(number)
        folder.mkdir()
        yield _locked(folder, draw, setting.seconds) if kind == "locked" else _server(folder, kind, draw)


def _locked(folder: Path, draw: random.Random, seconds: float) -> Outcome:
    uri = f"sqlite:///{folder}/mlflow.db"
    if draw.random() < 0.5:  # else the run meets a lock on a database that has no tables yet
        open_client(uri)
    process = start(folder, *QUICK, *LONG, MLFLOW_TRACKING_URI=uri)
    time.sleep(draw.uniform(0, 12))
    database = sqlite3.connect(folder / "mlflow.db", timeout=60, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    released = threading.Timer(seconds, lambda: None)
    released.start()
    try:
        _wait(process, lambda: not released.is_alive())
        released.join()
    finally:
        database.execute("ROLLBACK")
        database.close()
    return _judge("locked", folder, process, uri)


def _server(folder: Path, kind: str, draw: random.Random) -> Outcome:
    server = Server(folder)
    try:
        if kind in ("down in the middle", "down at the end"):
            server.up()
        process = start(folder, *QUICK, *LONG, MLFLOW_TRACKING_URI=server.uri)
        if kind == "down at the start":
            time.sleep(draw.uniform(2, 12))
            server.up(wait=False)
        elif kind == "down in the middle":
            _wait(process, lambda: _rows(folder) > draw.randrange(1, 60))
            server.down()
            time.sleep(draw.uniform(0.5, 5))
            server.up(wait=False)
        elif kind == "down at the end":
            _wait(process, lambda: _rows(folder) > 500)
            server.down()
        _wait(process, lambda: False)
        server.down()
        server.up()
        return _judge(kind, folder, process, server.uri)
    finally:
        server.down()


def _rows(folder: Path) -> int:
    journals = list(folder.glob("outputs/*/journal.jsonl"))
    return journals[0].read_bytes().count(b'"metrics"') if journals else 0


def _wait(process: "subprocess.Popen[str]", until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and not until() and time.monotonic() < deadline:
        time.sleep(0.1)


def _judge(kind: str, folder: Path, process: "subprocess.Popen[str]", uri: str) -> Outcome:
    out, err = process.communicate(timeout=300)
    run = run_in(folder / "outputs")
    if process.returncode != 0 or result_of(run).get("status") != "finished":
        return Outcome(kind, False, f"exit status {process.returncode}: {err[-500:]}")
    told = last_lines(out, "rows pending") if "rows pending" in out else "nothing was pending"
    for again in (False, True):
        synced = gradlab(folder, "sync", str(run), MLFLOW_TRACKING_URI=uri)
        if synced.returncode != 0 or (again and ": 0 rows shipped" not in synced.stdout):
            return Outcome(kind, False, f"gradlab sync: {synced.stdout}{synced.stderr}")
    said, lost = differences(run, uri)
    return Outcome(kind, not said, "; ".join(said[:5]) or told, lost)
