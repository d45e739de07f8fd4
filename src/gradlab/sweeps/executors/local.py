"""Workers on this machine: one process to a seat."""

import selectors
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gradlab.sweeps.executors.process import WorkerProcess
from gradlab.sweeps.nursery import Nursery, can_fork
from gradlab.sweeps.record import Point
from gradlab.sweeps.seats import Seat, free_memory
from gradlab.sweeps.workers import Message, Worker


class LocalWorker(Worker):
    """A worker process at ``seat``."""

    def __init__(self, seat: Seat, log: Path, lock: IO[str], nursery: Nursery | None) -> None:
        super().__init__()
        self.seat = seat
        self.process = WorkerProcess(seat, log, lock, nursery=nursery)

    def send(self, command: Message) -> None:
        self.process.send(command)

    def died_of(self) -> str:
        return self.process.died_of()

    @property
    def last_words(self) -> str:
        return self.process.last_words()


class Local:
    """See ``Executor``.

    Args:
        seats: of the workers; there are as many as it has entries, or fewer.
        logs: folder for what workers say before and between points.
        lock: of the sweep.
        nursery: that imports already, for seats as it was foreseen; or None.
    """

    machine = ""
    stays = False

    def __init__(self, seats: list[Seat], logs: Path, lock: IO[str], nursery: Nursery | None = None) -> None:
        self.seats = seats
        self.logs = logs
        self.lock = lock
        self.workers: list[LocalWorker] = []
        self._selector = selectors.DefaultSelector()
        self._started = 0
        self._nursery = nursery

    @property
    def seat(self) -> Seat:
        return self.seats[0]

    @property
    def size(self) -> int:
        return len(self.seats)

    def memory(self) -> int:
        return free_memory() // len(self.seats)

    def want(self, workers: int) -> None:
        free = list(self.seats)
        for worker in self.workers:
            free.remove(worker.seat)
        for seat in free[: max(0, workers - len(self.workers))]:
            self._started += 1
            log = self.logs / f"{self._started}.log"
            worker = LocalWorker(seat, log, self.lock, self._nursery_for(seat))
            self.workers.append(worker)
            self._selector.register(worker.process.events, selectors.EVENT_READ, worker)

    def _nursery_for(self, seat: Seat) -> Nursery | None:
        """What forks a worker, where several may be wanted: one alone is as fast as a Python of its own."""
        wanted = len(self.seats) > 1 and can_fork(seat) and WorkerProcess.program == Nursery.forks
        if self._nursery is not None and (not wanted or self._nursery.dead or self._nursery.seat != seat):
            self._nursery.close(at_once=not wanted)
            self._nursery = None
        if wanted and self._nursery is None:
            self._nursery = Nursery(seat)
        return self._nursery

    def join(self, points: Sequence[Point], sweep: Path) -> None:
        """Nothing: its workers end with the process that started them."""

    def leave(self) -> str:
        raise NotImplementedError("workers on this machine end with the sweep's process")

    def look(self, seconds: float) -> list[tuple[Worker, list[Message] | None]]:
        found: list[tuple[Worker, list[Message] | None]] = []
        speaking: list[LocalWorker] = [key.data for key, _ in self._selector.select(seconds)]
        for worker in speaking:
            events = worker.process.read()
            found.append((worker, events))
        # One whose pipe is held open by a process that its point had started.
        found += [(worker, None) for worker in self.workers if worker.process.dead and worker not in speaking]
        return found

    def drop(self, worker: Worker) -> None:
        assert isinstance(worker, LocalWorker)
        self._selector.unregister(worker.process.events)
        self.workers.remove(worker)
        worker.process.kill()

    def close(self) -> None:
        for worker in list(self.workers):
            self._selector.unregister(worker.process.events)
            self.workers.remove(worker)
            worker.process.end()
        if self._nursery is not None:
            self._nursery.close(at_once=self._started == 0)
        self._selector.close()
