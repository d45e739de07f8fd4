"""The one process that ships a sweep to MLflow: the parent run first, then a nested run for each point, as their journals grow.

Workers never touch the store: importing MLflow costs two seconds of a core, and a database has one writer at a time. As a
run's own shipper does, it outlives a sweep that is killed, and says in MLflow that it is over.

``python -m gradlab.sweeps.shipping SWEEP_FOLDER`` reads the store's URI from the environment; its standard input is a pipe
from the sweep, on which anything means that a look is worth while now, and whose end of file that the sweep is over. It writes a
line for every look that shipped something.
"""

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from gradlab.settings import MLflow
from gradlab.tracking.ending import end_gone_runs, end_journal_of_the_dead
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.holding import journal_held
from gradlab.tracking.journal import records
from gradlab.tracking.replay import Replay
from gradlab.tracking.shipper import PATIENCE, RHYTHM, SETTLING, URI_VARIABLE, Shipped
from gradlab.tracking.store import leave_out_tables, open_client, tracking_uri
from gradlab.tracking.sync import settle

SHARE = 0.04
"""Of its time that may go into finding the journals that have grown, of which there may be thousands that have not."""
ERRORS_IN_A_ROW = 3
"""Journals that fail one after the other before a look at all of them ends: the store is down, not a journal damaged."""


class SweepShipper:
    """The sweep's side: starts the process, and waits for it at the end."""

    def __init__(self, folder: SweepFolder, settings: MLflow, lock: IO[str]) -> None:
        self.folder = folder
        self.tracking = settings
        self.uri = tracking_uri(settings.uri)
        with folder.shipper_log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gradlab.sweeps.shipping", str(folder.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, URI_VARIABLE: self.uri, "OMP_NUM_THREADS": "1"},
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C is for the sweep, not for its shipper
            )

    def hurry(self) -> None:
        """All points have ended: it may ship them while the verdict is drawn."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which ``finish`` says
            self._process.stdin.write(b".")
            self._process.stdin.flush()

    def finish(self, tell_of_waiting: Callable[[], None] = lambda: None) -> Shipped:
        """Say that all journals are complete, and wait until they are in the store or the shipper has given up.

        ``tell_of_waiting`` is called if that takes a while.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            tell_of_waiting()
        # As long as it gets on it is waited for: thousands of points take the store minutes.
        while select.select([self._process.stdout], [], [], PATIENCE + 25)[0]:
            if not os.read(self._process.stdout.fileno(), 4096):
                break
        else:
            self._process.kill()
        self._process.stdout.close()
        self._process.wait()
        log = self.folder.shipper_log
        if log.exists() and log.stat().st_size == 0:
            log.unlink()
        parent = Replay(self.folder, self.uri)
        replays = [parent, *(Replay(run, self.uri) for run in self.folder.run_folders())]
        pending = sum(replay.pending() for replay in replays)
        error = next((replay.state["error"] for replay in replays if replay.state["error"]), None)
        return Shipped(
            parent.state["run_id"],
            parent.state.get("experiment_id"),
            pending,
            (error or f"the shipper ended; see {log}") if pending else None,
        )


def main() -> NoReturn:
    """The process's side; exit status 0 when all journals are in the store."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sweep = Sweep()
    threading.Thread(target=sweep.listen, args=(0,), daemon=True).start()
    os.nice(10)  # the cores are the training's first
    leave_out_tables()
    os.umask(0o077)  # a store that is made here is for this user, as the sweep's folder is
    status = ship_until_over(SweepFolder(Path(sys.argv[1])), os.environ.pop(URI_VARIABLE), sweep, _beat)
    sys.stderr.flush()
    os._exit(status)  # everything is written; taking MLflow's modules apart takes half a second


class Sweep:
    """What the sweep has said: that it is over, or that a look is worth while."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.asked = threading.Event()

    def listen(self, pipe: int) -> None:
        """Until the sweep is over."""
        while os.read(pipe, 64):
            self.asked.set()
        self.over.set()
        self.asked.set()

    def wait(self, seconds: float) -> None:
        """For so long at most, and no longer than until it says something."""
        self.asked.wait(seconds)
        self.asked.clear()


def _beat() -> None:
    with contextlib.suppress(OSError):  # the sweep is gone; shipping goes on
        os.write(1, b".")


def ship_until_over(folder: SweepFolder, uri: str, sweep: Sweep, beat: Callable[[], None] = lambda: None) -> int:
    """Replay until the sweep is over and all is shipped, or until the store has failed for ``PATIENCE`` seconds more."""
    shipping = Shipping(folder, uri, beat)
    wait, failing_since, ended, settled = RHYTHM[0], None, False, False
    gone = end_gone_runs(folder.path.parent)
    while True:
        over = sweep.over.is_set()
        if over and not ended:
            ended = True
            with contextlib.suppress(OSError):
                _end_journals_of_the_dead(folder)
        if shipping.look():
            if over:
                return 0
            wait, failing_since = max(min(1.5 * wait, RHYTHM[1] / 2), shipping.searching / SHARE), None
            if not settled:
                settled = True
                shipping.settle(gone, sweep.asked)
        elif over:
            failing_since = failing_since or time.monotonic()
            if time.monotonic() + 1 > failing_since + PATIENCE:
                return 1
            wait = min(2 * wait, 5.0)
        else:
            wait = min(2 * wait, 15.0)
        if over:
            time.sleep(wait)
        else:
            sweep.wait(wait)


def _end_journals_of_the_dead(folder: SweepFolder) -> None:
    last = [record["kind"] for record, _ in records(folder.journal)][-1:] if folder.journal.exists() else []
    if last != ["end"]:
        time.sleep(0.5)  # the sweep was killed; its workers notice, and may be writing a last row
    if folder.jobs.exists():
        return  # on other machines, where nothing is known to be dead
    for journal in [*folder.run_folders(), *([folder] if last else [])]:
        end_journal_of_the_dead(journal)


class Shipping:
    """The journals of a sweep on their way into one store, by one client."""

    def __init__(self, folder: SweepFolder, uri: str, beat: Callable[[], None]) -> None:
        self.folder = folder
        self.uri = uri
        self.beat = beat
        self._client = functools.cache(lambda: open_client(uri))
        self._parent = Replay(folder, uri, self._client)
        self._parents: dict[str, str] = {}
        self._runs: dict[Path, Replay] = {}
        self._ended: dict[Path, int] = {}
        """Journals whose end is in the store, and how long they were: one that is gone on with is another length."""
        self.searching = 0.0
        """Seconds that finding the journals to ship has taken in the last look."""

    def look(self) -> bool:
        """Ship what all journals hold and the store does not; returns whether nothing failed."""
        if not self.folder.journal.exists():  # the sweep died before its first line
            return True
        if not self._ship(self._parent):  # without the parent run, no other could be nested below it
            return False
        failed = in_a_row = 0
        began = time.monotonic()
        runs = [run for run in self.folder.run_folders() if self._ended.get(run.path) != run.journal.stat().st_size]
        self.searching = time.monotonic() - began
        for run in runs:
            replay = self._runs.setdefault(run.path, Replay(run, self.uri, self._client, self._parents))
            if self._ship(replay):
                in_a_row = 0
                if replay.ended:
                    self._ended[run.path] = replay.state["offset"]
                    del self._runs[run.path]
            else:
                failed, in_a_row = failed + 1, in_a_row + 1
                if in_a_row == ERRORS_IN_A_ROW:
                    break
        return not failed

    def settle(self, gone: list[RunFolder], asked: threading.Event) -> None:
        """Look after earlier runs and sweeps in the same output folder, for a while, or until this sweep asks for a look."""
        until = time.monotonic() + SETTLING

        def stop() -> bool:
            return asked.is_set() or time.monotonic() > until

        with contextlib.suppress(Exception):  # it is a service to others, and no concern of this sweep's
            settle(self.folder.path.parent, gone, self.uri, self._client, stop)

    def _ship(self, replay: Replay) -> bool:
        before = replay.state["offset"]
        try:
            with journal_held(replay.folder) as held:
                if not held:  # it is being cut by a worker that goes on with the run: in the next look
                    return True
                replay.refresh()
                replay.ship()
        except Exception as error:  # whatever a store does wrong must not end the shipper; the sweep is told at its end
            replay.fail(error)
            return False
        if replay.state["offset"] != before:
            self.beat()
        return True


if __name__ == "__main__":
    main()
