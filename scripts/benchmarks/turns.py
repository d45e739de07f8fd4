"""Turns: every way to train lives in a process of its own and waits; one at a time makes steps for a while.

So nothing that one way leaves behind (threads, caches of compiled code, fragments of memory) is in another's figures, a compiled
way compiles once, and all ways have the same good and bad moments of the machine.
"""

import contextlib
import multiprocessing
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Turn:
    """What a way did when it was its turn: steps, the seconds they took by the clock and of processors, and the most memory so far in bytes.

    Processor time is that of its own process: on a busy machine it says more than the clock, but not of workers beside it.
    """

    steps: int
    seconds: float
    processor: float
    memory: int


class Baton:
    """A way's end of the line: ``wait`` before the first step of a turn, ``passed`` after some steps.

    ``passed`` gives the baton back where the turn's seconds are over, and waits for the next turn.
    """

    def __init__(self, connection: Connection, synchronize: Callable[[], None]) -> None:
        self.connection = connection
        self.synchronize = synchronize

    def wait(self) -> None:
        """Until it is this way's turn. Ends the process where there is none any more."""
        self.wanted = self.connection.recv()
        if self.wanted is None:
            self.connection.close()
            os._exit(0)  # from within a training that would go on for ever
        self.synchronize()
        self.steps, self.began, self.worked = 0, time.perf_counter(), time.process_time()

    def passed(self, steps: int) -> None:
        """``steps`` more are done, or at least under way."""
        self.steps += steps
        if time.perf_counter() - self.began >= self.wanted:
            self.synchronize()
            seconds = time.perf_counter() - self.began
            self.connection.send(Turn(self.steps, seconds, time.process_time() - self.worked, _memory()))
            self.wait()


def _memory() -> int:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


Seats = Mapping[str, tuple[str, Workload]]
"""Who takes turns: a name for the record, the way (see ``ways``) and what it trains."""


def _serve(way: str, connection: Connection, workload: Workload, data: Path) -> None:
    from benchmarks import ways

    try:
        ways.train(way, connection, workload, data)
    except BaseException:
        connection.send(traceback.format_exc())
        raise


class WayError(Exception):
    """A way ended with an error."""


@contextlib.contextmanager
def seated(seats: Seats, data: Path) -> Iterator[dict[str, Connection]]:
    """A process for each seat, which waits for its turn."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    started = []
    for name, (way, workload) in seats.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(way, theirs, workload, data))
        process.start()
        theirs.close()
        started.append(process)
        lines[name] = ours
    try:
        yield lines
    finally:
        for line in lines.values():
            with contextlib.suppress(OSError):
                line.send(None)
        for process in started:
            process.join(20)
            process.kill()


def turn(line: Connection, seconds: float) -> Turn:
    """Let a way make steps for about so long.

    Raises:
        WayError: it failed instead.
    """
    try:
        line.send(seconds)
        answer = line.recv()
    except (EOFError, OSError) as error:
        raise WayError("its process ended") from error
    if isinstance(answer, str):
        raise WayError(answer.strip())
    assert isinstance(answer, Turn)
    return answer


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of ``values`` with the lowest and the highest, for a record."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def take_turns(seats: Seats, data: Path, turns: int, seconds: float) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """``turns`` of every seat, one after the other in each round, after a warm-up; and the errors of those that failed."""
    found: dict[str, list[Turn]] = {name: [] for name in seats}
    broken: dict[str, str] = {}
    with seated(seats, data) as lines:
        for round_ in range(-2, turns):  # twice: compiling, then warm
            for name, line in lines.items():
                if name in broken:
                    continue
                try:
                    done = turn(line, seconds if round_ >= 0 else seconds / 2)
                except WayError as error:
                    broken[name] = str(error)
                    continue
                if round_ >= 0:
                    found[name].append(done)
    return {name: taken for name, taken in found.items() if name not in broken}, broken


def record(taken: Sequence[Turn]) -> dict[str, Any]:
    """Microseconds for each step and the most memory, for a record."""
    return {
        "microseconds_per_step": spread([1e6 * each.seconds / each.steps for each in taken]),
        "processor_microseconds_per_step": spread([1e6 * each.processor / each.steps for each in taken]),
        "memory_mib": round(max(each.memory for each in taken) / 2**20),
    }
