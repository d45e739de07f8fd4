"""The shipper: a process beside a run that replays its journal into MLflow.

A process, not a thread: importing MLflow and talking to a database hold Python's global lock, and a thread would take
it from the training loop. It also outlives a run that is killed, and so can say in MLflow that the run is over.

``python -m gradlab.tracking.shipper RUN_FOLDER`` reads the store's URI from the environment variable below. Its standard
input is a pipe from the run: end of file means that the run is over, one way or the other.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gradlab.settings import MLflow
from gradlab.tracking.ending import end_gone_runs, end_journal_of_the_dead
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.replay import Replay
from gradlab.tracking.store import leave_out_tables, tracking_uri
from gradlab.tracking.sync import settle

URI_VARIABLE = "GRADLAB_SHIPPER_URI"
RHYTHM = (1.0, 10.0)
"""Seconds between two looks at the journal: at first, and at most. The pause grows by half with each look, because each
costs 20 ms of a core that the training may be using with all its threads."""
PATIENCE = 20.0
"""Seconds after the run's end, or after the last rows that it took, for which a store that fails is tried again."""
SETTLING = 10.0
"""Seconds of a run's life that its shipper spends on earlier runs, at most."""


@dataclass(frozen=True)
class Shipped:
    """What came of shipping a run. ``pending`` counts the records that are not in the store."""

    run_id: str | None
    experiment_id: str | None
    pending: int
    error: str | None


class Shipper:
    """The run's side: starts the process, and waits for it at the end."""

    def __init__(self, folder: RunFolder, settings: MLflow) -> None:
        self.folder = folder
        self.uri = tracking_uri(settings.uri)
        with folder.shipper_log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gradlab.tracking.shipper", str(folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, URI_VARIABLE: self.uri, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the run, not for its shipper
            )

    def finish(self) -> Shipped:
        """Say that the journal is complete, and wait until it is in the store or the shipper has given up."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        unanswered = None
        seconds = PATIENCE + 20
        shipped = Replay(self.folder, self.uri).state["offset"]
        while self._process.poll() is None:
            try:
                self._process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                before, shipped = shipped, Replay(self.folder, self.uri).state["offset"]
                if shipped == before:
                    self._process.kill()
                    self._process.wait()
                    unanswered = f"the store did not answer within {seconds:.0f} s"
        replay = Replay(self.folder, self.uri)
        state, pending = replay.state, replay.pending()
        log = self.folder.shipper_log
        if log.exists() and log.stat().st_size == 0:
            log.unlink()
        error = state["error"] or unanswered or (f"the shipper ended; see {log}" if log.exists() else "it ended early")
        return Shipped(state.get("run_id"), state.get("experiment_id"), pending, error if pending else None)


def main() -> NoReturn:
    """The process's side; exit status 0 when the whole journal is in the store."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = RunFolder(Path(sys.argv[1]))
    # Held until this process ends: `gradlab sync` leaves a journal alone that is being shipped.
    journal = folder.journal.open()
    fcntl.flock(journal, fcntl.LOCK_EX)
    run_is_over = threading.Event()

    def wait_for_the_run() -> None:
        sys.stdin.buffer.read()
        run_is_over.set()

    threading.Thread(target=wait_for_the_run, daemon=True).start()
    os.nice(10)  # the cores are the training's first
    leave_out_tables()
    os.umask(0o077)  # a store that is made here is for this user, as the run's folder is
    status = ship_until_over(folder, os.environ.pop(URI_VARIABLE), run_is_over)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written; taking MLflow's modules apart in good order would keep the run waiting for half a second.
    os._exit(status)


def ship_until_over(folder: RunFolder, uri: str, run_is_over: threading.Event) -> int:
    """Replay until the run is over and all is shipped, or until the store has failed for ``PATIENCE`` seconds more."""
    replay = Replay(folder, uri)
    wait, deadline, settled = RHYTHM[0], None, False
    gone, shipped = end_gone_runs(folder.path.parent), replay.state["offset"]
    while True:
        over = run_is_over.is_set()
        if over and deadline is None:
            deadline = time.monotonic() + PATIENCE
            # A full disk must not keep a run that is over RUNNING in MLflow.
            with contextlib.suppress(OSError):
                end_journal_of_the_dead(folder)
        try:
            replay.ship()
            wait = min(1.5 * wait, RHYTHM[1])
            if over:
                replay.end("KILLED")
                return 0
            if not settled:
                settled = True
                _settle(folder, gone, replay, run_is_over)
        except Exception as error:
            # Whatever a store does wrong must not end the shipper; the run is told at its end.
            replay.fail(error)
            wait = min(2 * wait, 15.0)
            if replay.state["offset"] != shipped:  # a store that is busy, not one that is down
                shipped, deadline = replay.state["offset"], deadline and time.monotonic() + PATIENCE
            if deadline is not None and time.monotonic() + 1 > deadline:
                return 1
        if deadline is None:
            run_is_over.wait(wait)
        else:
            time.sleep(min(wait, max(0.5, deadline - time.monotonic() - 1)))


def _settle(folder: RunFolder, gone: list[RunFolder], replay: Replay, run_is_over: threading.Event) -> None:
    """Look after earlier runs, for a while: the rows of this one wait meanwhile."""
    until = time.monotonic() + SETTLING

    def stop() -> bool:
        return run_is_over.is_set() or time.monotonic() > until

    with contextlib.suppress(Exception):  # it is a service to others, and no concern of this run's
        settle(folder.path.parent, gone, replay.uri, lambda: replay.client, stop)


if __name__ == "__main__":
    main()
