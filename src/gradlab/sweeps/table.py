"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import heapq
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gradlab.sweeps.identity import setting
from gradlab.sweeps.record import DONE, Point, SweepRecord

if TYPE_CHECKING:
    from gradlab.sweeps.workers import Worker

SHOWN = 12
"""Running points that the live table lists at most."""


class Mean(NamedTuple):
    """The mean of what so many seeds of a setting have come to."""

    mean: float
    setting: str
    seeds: int


class Best:
    """The setting with the highest mean, kept as values come: neither values nor settings are gone through again."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        self._heap: list[
            tuple[float, int, str, int]
        ] = []  # as each was at a time; those that are outdated go as they come up
        self._added = 0

    def add(self, setting: str, value: float) -> None:
        total, count = self._sums.get(setting, (0.0, 0))
        self._sums[setting] = total + value, count + 1
        self._added += 1
        heapq.heappush(self._heap, (-(total + value) / (count + 1), self._added, setting, count + 1))

    def found(self) -> Mean | None:
        """The highest mean; None where there is nothing."""
        while self._heap:
            negative, _, setting, count = self._heap[0]
            if self._sums[setting][1] == count:
                return Mean(-negative, setting, count)
            heapq.heappop(self._heap)
        return None


class Table:
    """Counts, running points, the best setting so far, and the time left.

    Args:
        console: where to.
        record: the sweep.
        known: the best validation accuracies of points that were done before, by their names.
        rhythm: seconds between plain lines.
    """

    def __init__(self, console: Console, record: SweepRecord, known: dict[str, float], rhythm: float = 10.0) -> None:
        self.console = console
        self.record = record
        self.rhythm = rhythm
        self._best = Best()
        for name, accuracy in known.items():
            self._best.add(setting(name), accuracy)
        self._live: Live | None = None
        self._began = self._spoken = time.monotonic()
        self._todo = self._settled = 0

    def __enter__(self) -> "Table":
        self._began = self._spoken = time.monotonic()
        coming = self.record.expected - len(self.record.points)  # those that a search has yet to choose
        self._todo, self._settled = self.record.count("waiting") + coming, 0
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(console=self.console, transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def best_accuracy(self) -> float | None:
        """The highest mean over a setting's seeds of the best validation accuracy."""
        found = self._best.found()
        return found and found.mean

    def settled(self, point: Point, metrics: dict[str, float]) -> None:
        """A point has come to something."""
        self._settled += 1
        if point.status == "finished" and "best/val_accuracy" in metrics:
            self._best.add(setting(point.name), metrics["best/val_accuracy"])
        if point.status == "failed":
            self.say(f"{point.name}: failed: {point.reason}")

    def say(self, line: str) -> None:
        """One line of its own, above the table."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self, workers: "Sequence[Worker]") -> None:
        """Draw it again, where it is time to."""
        now = time.monotonic()
        if self._live is None:
            if now - self._spoken >= self.rhythm:
                self._spoken = now
                self.say(
                    self.line(workers)
                    if any(worker.ready or worker.queues for worker in workers)
                    else "workers are starting …"
                )
        elif now - self._spoken >= 0.25:
            self._spoken = now
            lines = [self.line(workers), *self._running(workers)]
            self._live.update(Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines)), refresh=True)

    def line(self, workers: "Sequence[Worker]" = ()) -> str:
        """Where the sweep stands, in one line."""
        counts = self.record.counts()
        parts = [f"{sum(counts[status] for status in DONE)}/{self.record.expected} done"]
        told = ("running", "queued", "waiting", "diverged", "pruned", "failed", "killed")
        parts += [f"{counts[status]} {status}" for status in told if counts[status]]
        if best := self._best.found():
            seeds = f", mean of {best.seeds}" if best.seeds > 1 else ""
            parts.append(f"best so far {best.setting and f'{best.setting}: '}val {best.mean:.2%}{seeds}")
        left = self._seconds_left(workers)
        if left is not None:
            parts.append(f"{_clock(left)} left")
        return "  ".join(parts)

    def _running(self, workers: "Sequence[Worker]") -> list[str]:
        lines = []
        for worker in workers:
            if not worker.points:
                lines.append("  " + ("free" if worker.ready else "starting …"))
                continue
            first, *others = worker.points
            line = f"  {first.name}" + (f" and {len(others)} more at once" if others else "")
            if worker.said:
                line += f"  step {worker.said['step']:,}/{worker.said['steps']:,}"
                if worker.said["val"] is not None:
                    line += f"  val {worker.said['val']:.1%}"
            lines.append(line)
        return [*lines[:SHOWN], *([f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])]

    def _seconds_left(self, workers: "Sequence[Worker]") -> float | None:
        """By the points done in this process and what the running ones have behind them."""
        shares = [
            len(worker.points) * worker.said["step"] / worker.said["steps"]
            for worker in workers
            if worker.points and worker.said
        ]
        done = self._settled + sum(shares)
        if done < 1 or not workers:
            return None
        return float((time.monotonic() - self._began) * max(0.0, self._todo - done) / done)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
