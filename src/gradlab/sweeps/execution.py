"""Runs the points of a sweep on its workers, until all are done, too much has gone wrong, or somebody wants it to stop."""

import contextlib
import selectors
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from gradlab.errors import GradlabError
from gradlab.sweeps.record import Point, SweepRecord
from gradlab.sweeps.seats import Seat
from gradlab.sweeps.table import Table
from gradlab.sweeps.workers import Message, Worker
from gradlab.tracking.ending import end_journal_of_the_dead
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal

DEATHS = 2
"""Workers that one point may cost: it is tried once more, then FAILED."""
STARTS = 3
"""Workers in a row that may die before they are ready: then it is no point's fault."""
GRACE = 30.0
"""Seconds for running points to end after a signal; one waits for the end of a step, and writes a checkpoint."""
TICK = 0.2
"""Seconds between two looks at signals, processes and the clock."""


class Execution:
    """The points that wait, and the workers that train them.

    Args:
        record: of the sweep; its points are changed here.
        parent: the id in the sweep's journal.
        journal: of the sweep.
        seats: of the workers.
        fail_fast: whether the first failed point ends the execution.
        lock: the sweep's.
        table: told what happens.
    """

    def __init__(
        self,
        record: SweepRecord,
        parent: str,
        journal: Journal,
        seats: list[Seat],
        fail_fast: bool,
        lock: IO[str],
        table: Table,
    ) -> None:
        self.record = record
        self.parent = parent
        self.journal = journal
        self.fail_fast = fail_fast
        self.lock = lock
        self.table = table
        self.signum: int | None = None
        self._waiting: deque[Point] = deque()
        self._seats = seats
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._deaths: dict[str, int] = {}
        self._failed_starts = 0
        self._stop_at: float | None = None
        self._signals_to_heed = 0
        self._started = 0

    def run(self) -> None:
        """Run all points that wait. What came of them is in the points, and in ``signum``; workers stay for other points.

        Raises:
            GradlabError: workers cannot be started at all.
        """
        self._waiting.extend(point for point in self.record.points if point.status == "waiting" and point.config)
        if not self._waiting:
            return
        with self._signals(), self.table:
            free = list(self._seats)
            for worker in self._workers:
                free.remove(worker.seat)
            for seat in free[: max(0, len(self._waiting) - len(self._workers))]:
                self._start(seat)
            while (self._waiting and self._stop_at is None) or any(worker.point for worker in self._workers):
                self._look()
                self.table.update(self._workers)
                self.record.write_in_time()

    def close(self) -> None:
        """Let all workers go."""
        for worker in list(self._workers):
            self._forget(worker)
            worker.end()
        self._selector.close()

    # ------------------------------------------------------------------ what happens

    def _look(self) -> None:
        """Wait for a moment, and deal with all that has happened."""
        if self._signals_to_heed:
            self._signals_to_heed -= 1
            self.stop()
        speaking: list[Worker] = [key.data for key, _ in self._selector.select(TICK)]
        for worker in speaking:
            events = worker.read()
            for event in events or []:
                self._heard(worker, event)
            if events is None:
                self._lost(worker)
        # One whose pipe is held open by a process that its point had started.
        for worker in [worker for worker in self._workers if worker.dead and worker not in speaking]:
            self._lost(worker)
        if self._stop_at is not None and time.monotonic() > self._stop_at:
            for worker in list(self._workers):
                self._give_up(worker)
        for worker in [worker for worker in self._workers if worker.idle]:
            self._assign(worker)

    def _heard(self, worker: Worker, event: Message) -> None:
        if event["event"] == "ready":
            worker.ready, self._failed_starts = True, 0
        elif event["event"] == "progress":
            worker.said = event
        elif event["event"] == "done":
            point, worker.point = worker.point, None
            assert point is not None
            if event["status"] == "killed" and self._stop_at is None:
                self._try_again(point, "somebody sent its worker a signal")  # we have not
            else:
                self._settle(point, event["status"], event["reason"], event["metrics"])

    def _assign(self, worker: Worker) -> None:
        """Give an idle worker the next point, if one waits."""
        while self._waiting and self._stop_at is None:
            point = self._waiting.popleft()
            try:
                folder = RunFolder.create(self.record.folder.runs, point.name)
            except OSError as error:
                self._settle(point, "failed", f"its folder cannot be made: {error}", {})
                continue
            point.status, point.reason, point.tries = "running", None, point.tries + 1
            point.folder = str(folder.path.relative_to(self.record.folder.path))
            worker.run(point, folder.path, self.parent, self.record.command)
            return

    def _lost(self, worker: Worker) -> None:
        """A worker has died: its point is tried once more, and another worker takes its seat."""
        if worker not in self._workers:
            return
        self._forget(worker)
        reason, point = worker.died_of(), worker.point
        worker.kill()
        if point is None:
            self._failed_starts += not worker.ready
            if self._failed_starts >= STARTS:
                raise GradlabError(f"The sweep's workers cannot start: {reason}. {_tail(worker.log)}")
        elif self._stop_at is not None:
            self._bury(point, "killed", "interrupted")
            self._settle(point, "killed", "interrupted", {})
        else:
            self._bury(point, "failed", reason)
            self._try_again(point, reason)
        if self._waiting and self._stop_at is None:
            self._start(worker.seat)

    def _try_again(self, point: Point, reason: str) -> None:
        self._deaths[point.id] = self._deaths.get(point.id, 0) + 1
        if self._deaths[point.id] < DEATHS:
            point.status, point.reason = "waiting", reason
            self._waiting.appendleft(point)
            self.table.say(f"{point.name}: {reason}; it is tried once more")
        else:
            self._settle(point, "failed", f"{reason}, twice", {})

    def _bury(self, point: Point, status: str, reason: str) -> None:
        """End the record of a run whose worker died, which cannot do it itself."""
        assert point.folder is not None
        run = RunFolder(self.record.folder.path / point.folder)
        with contextlib.suppress(OSError):
            if not run.result.exists():
                run.write_result({"status": status, "reason": reason, "point": point.id})
            if run.journal.exists():
                end_journal_of_the_dead(run, reason, status)

    def _settle(self, point: Point, status: str, reason: str | None, metrics: dict[str, float]) -> None:
        point.status, point.reason = status, reason
        self.table.settled(point, metrics)
        counts = {f"sweep/{kind}": self.record.count(kind) for kind in ("finished", "diverged", "failed")}
        best = self.table.best_accuracy
        with contextlib.suppress(OSError):  # a full disk
            self.journal.metrics(
                sum(counts.values()), {**counts, **({} if best is None else {"sweep/best_val_accuracy": best})}
            )
        if status == "failed" and self.fail_fast:
            self.stop()

    # ------------------------------------------------------------------ workers

    def _start(self, seat: Seat) -> None:
        self._started += 1
        worker = Worker(seat, self.record.folder.logs / f"{self._started}.log", self.lock)
        self._workers.append(worker)
        self._selector.register(worker.events, selectors.EVENT_READ, worker)

    def _forget(self, worker: Worker) -> None:
        self._selector.unregister(worker.events)
        self._workers.remove(worker)

    def _give_up(self, worker: Worker) -> None:
        self._forget(worker)
        worker.kill()
        if worker.point is not None:
            self._bury(worker.point, "killed", "interrupted")
            self._settle(worker.point, "killed", "interrupted", {})

    # ------------------------------------------------------------------ the end

    def stop(self) -> None:
        """Have every running point end, and begin no other. The second time, end at once."""
        again = self._stop_at is not None
        self._stop_at = time.monotonic() + (0 if again else GRACE)
        for worker in self._workers:
            worker.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            self._signals_to_heed += 1

        before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else ""
