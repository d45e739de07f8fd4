"""Workers that are forked from one process that has imported everything."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradlab.sweeps.executors.local import Local
from gradlab.sweeps.executors.process import WorkerProcess
from gradlab.sweeps.nursery import Nursery, can_fork
from gradlab.sweeps.seats import Seat

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
SEAT = Seat(1, "")
Start = Callable[[], WorkerProcess]


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[tuple[Nursery, Start]]:
    """A nursery, and what starts a worker from it."""
    with (tmp_path / "lock").open("w") as lock:
        made = Nursery(SEAT)
        workers: list[WorkerProcess] = []

        def start() -> WorkerProcess:
            workers.append(WorkerProcess(SEAT, tmp_path / f"{len(workers) + 1}.log", lock, nursery=made))
            return workers[-1]

        try:
            yield made, start
        finally:
            for worker in workers:
                with contextlib.suppress(OSError, ValueError):
                    worker.kill()
            made.close()


def hear(worker: WorkerProcess) -> list[str]:
    events = worker.read()
    return ["end"] if events is None else [event["event"] for event in events]


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_are_children_of_one_process_and_report_how_they_end(
    forking: tuple[Nursery, Start], tmp_path: Path
) -> None:
    _, start = forking
    first, second, third = start(), start(), start()
    assert [hear(worker) for worker in (first, second, third)] == [["ready"]] * 3
    assert len({parent_of(worker.pid) for worker in (first, second, third)}) == 1
    assert parent_of(first.pid) != os.getpid()
    assert os.getsid(first.pid) == first.pid  # Ctrl-C does not reach it
    os.kill(first.pid, signal.SIGSEGV)
    assert hear(first) == ["end"]
    assert first.died_of() == "its worker was killed by SIGSEGV, a fault in compiled code"
    assert not second.dead
    second.end()  # an idle one ends as its input does
    assert second.died_of() == "its worker ended with exit status 0"
    third.kill()
    assert third.died_of().startswith("its worker was killed by SIGKILL")
    fourth = start()
    assert hear(fourth) == ["ready"]
    assert not (tmp_path / "2.log").exists()  # nothing was said


def test_workers_outlive_the_process_that_forked_them_and_end_with_the_sweep(forking: tuple[Nursery, Start]) -> None:
    made, start = forking
    worker = start()
    assert hear(worker) == ["ready"]
    os.kill(parent_of(worker.pid), signal.SIGKILL)
    wait_for(lambda: made.dead)
    assert not worker.dead
    worker.end()
    assert "killed by SIGKILL" in worker.died_of()  # nobody saw how it ended
    late = start()  # of a nursery that is gone
    assert hear(late) == ["end"]
    assert late.died_of().startswith("its worker was killed by SIGKILL")


def test_a_nursery_that_cannot_begin_says_why_in_the_log_of_its_first_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nursery, "program", ("-c", "raise SystemExit('no torch here')"))
    with (tmp_path / "lock").open("w") as lock:
        local = Local([SEAT, SEAT], tmp_path / "logs", lock)
        local.want(1)
        ((worker, events),) = local.look(20)
        assert events is None
        assert worker.died_of() == "its worker ended with exit status 1"
        assert worker.last_words == "no torch here"
        local.drop(worker)
        local.close()


def test_only_workers_of_one_thread_on_the_cpu_are_forked() -> None:
    assert [can_fork(seat) for seat in (SEAT, Seat(2, ""), Seat(1, "0"))] == [True, False, False]
