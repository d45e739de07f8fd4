"""Where the points of a sweep are trained: on this machine, as jobs of SLURM, or on the nodes of a Ray cluster.

An executor has workers somewhere, hands them groups of points, and reports what they say and that they are no more.
Everything else is the same for all of them: which points there are, how they are grouped, retried, resumed, shown and judged
(``execution.py``, ``session.py``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from gradlab.config import Config
from gradlab.errors import ConfigError
from gradlab.sweeps.executors.local import Local
from gradlab.sweeps.nursery import Nursery
from gradlab.sweeps.record import Point, SweepRecord
from gradlab.sweeps.seats import Seat, cores_here, free_memory, gpus_here, seats
from gradlab.sweeps.settings import Launching
from gradlab.sweeps.workers import Message, Worker


class Executor(Protocol):
    """What ``execution.py`` asks of an executor.

    machine: what measured paces are remembered for, beside the seat; empty for this machine.
    stays: whether its workers go on when the sweep's process has ended.
    """

    machine: str
    stays: bool

    @property
    def workers(self) -> Sequence[Worker]:
        """Those that there are, busy or not."""

    @property
    def seat(self) -> Seat:
        """What a worker may use."""

    @property
    def size(self) -> int:
        """Workers that there can be at once, as far as that is known."""

    def memory(self) -> int:
        """Bytes that a worker may take."""

    def want(self, workers: int) -> None:
        """Have so many workers, or as many as there can be."""

    def join(self, points: Sequence[Point], sweep: Path) -> None:
        """Take up workers that stayed when an earlier process left the ``sweep``'s folder, with those of ``points`` they have."""

    def look(self, seconds: float) -> list[tuple[Worker, list[Message] | None]]:
        """Wait for at most ``seconds``: what workers have said meanwhile. A None says that a worker is no more."""

    def drop(self, worker: Worker) -> None:
        """Have no more to do with a worker, and end it if it lives."""

    def leave(self) -> str:
        """Let workers that stay go on by themselves; returns how to end them, for a person."""

    def close(self) -> None:
        """Let all workers go."""


def places(settings: Launching, configs: Sequence[Config]) -> list[Seat]:
    """The seats of workers for ``configs`` on this machine; none elsewhere. Nothing is started yet.

    Raises:
        ConfigError: there can be none such, or the executor that was asked for is not to be had.
    """
    if settings.executor == "slurm":
        from gradlab.sweeps.executors import slurm

        slurm.check(settings.slurm)
        return []
    if settings.executor == "ray":
        from gradlab.sweeps.executors import ray

        ray.check()
        return []
    return seats(settings, configs, cores_here(), free_memory(), gpus_here())


def executor(
    settings: Launching, seats: list[Seat], record: SweepRecord, lock: IO[str], nursery: Nursery | None = None
) -> Executor:
    """The executor that was asked for, without workers yet.

    Args:
        settings: of the launcher.
        seats: what ``places`` gave.
        record: of the sweep.
        lock: the sweep's, which processes on this machine hold with it.
        nursery: that was foreseen.

    Raises:
        ConfigError: jobs of the sweep live that another executor would know nothing of.
    """
    if settings.executor == "slurm":
        from gradlab.sweeps.executors.slurm import SlurmJobs

        name = f"gradlab-{record.id[:8]}"  # for those who look at the cluster
        return SlurmJobs(settings.slurm, settings.workers, record.folder.jobs, name)
    if record.folder.jobs.exists():
        from gradlab.sweeps.executors.slurm import alive

        if there := alive(record.folder.jobs):
            raise ConfigError(
                f"{len(there)} jobs of the sweep in {record.folder.path} wait or run in SLURM. Join them with "
                f"hydra.launcher.executor=slurm, or end them: scancel {' '.join(there[:5])}{' …' if len(there) > 5 else ''}"
            )
    if settings.executor == "ray":
        from gradlab.sweeps.executors.ray import RayNodes

        imports = {
            module for point in record.points if point.config for module in point.config.composed.get("imports", [])
        }
        return RayNodes(settings.ray, settings.workers, record.folder.path, record.id, sorted(imports))
    return Local(seats, record.folder.logs, lock, nursery)
