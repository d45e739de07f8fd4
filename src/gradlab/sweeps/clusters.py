"""The settings of the executors other than this machine, typed and checked: ``hydra.launcher.slurm`` and ``.ray``."""

from collections.abc import Callable
from dataclasses import dataclass

from gradlab.bounds import check_number
from gradlab.errors import FieldError


@dataclass(frozen=True)
class Slurm:
    """What a job of SLURM asks for; ``hydra.launcher.workers`` is how many run at once.

    partition, account, qos, constraint: as sbatch takes them; null for the cluster's default.
    time: minutes that a job may take, ≥ 1. One that is not done then is requeued, and goes on from a checkpoint.
    cpus: cores of a job, ≥ 1; torch's threads are at most these.
    gpus: GPUs of a job, ≥ 0; with more than one, ``trainer.devices`` uses them.
    mem_gb: memory of a job in GB; null for the cluster's default.
    points_per_job: groups of points that a job trains one after the other, ≥ 1; more, where there are over a thousand groups.
        Each job imports torch anew, which is worth sharing where points take seconds.
    signal_seconds: seconds before its time is up at which a job is told, ≥ 1; enough for the end of a step and a checkpoint.
    options: further options of sbatch by their names, such as {reservation: school, exclude: n7}; or null.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    time: int
    cpus: int
    gpus: int
    mem_gb: float | None
    points_per_job: int
    signal_seconds: int
    options: dict[str, str | int | float | bool] | None

    def __post_init__(self) -> None:
        with_prefix("slurm", self.check)

    def check(self) -> None:
        """Raise ``FieldError`` for a number out of range."""
        for field in ("time", "cpus", "points_per_job", "signal_seconds"):
            check_number(self, field, at_least=1)
        check_number(self, "gpus", at_least=0)
        if self.mem_gb is not None:
            check_number(self, "mem_gb", above=0)
        texts = {field: getattr(self, field) for field in ("partition", "account", "qos", "constraint")}
        for key, value in {**texts, **{f"options.{key}": value for key, value in (self.options or {}).items()}}.items():
            # They become lines of the job's script: a line of their own would be a command.
            if not (key.isprintable() and str(value).isprintable()):
                raise FieldError(key.partition(".")[0], "must not have more than one line")


@dataclass(frozen=True)
class Ray:
    """Where Ray is, and what a worker takes of it; ``hydra.launcher.workers`` is how many there are at most.

    address: of a running cluster, as host:port or auto; null to start one on this machine.
    cpus: CPUs of a worker, ≥ 1; torch's threads are at most these.
    gpus: GPUs of a worker, ≥ 0; a fraction lets several share one.
    resources: custom resources of a worker by their names, such as {a100: 1}; or null.
    scratch: folder on a node for the runs of a sweep whose folder that node does not see.
    """

    address: str | None
    cpus: int
    gpus: float
    resources: dict[str, float] | None
    scratch: str

    def __post_init__(self) -> None:
        with_prefix("ray", self.check)

    def check(self) -> None:
        """Raise ``FieldError`` for a number out of range."""
        check_number(self, "cpus", at_least=1)
        check_number(self, "gpus", at_least=0)


def with_prefix(prefix: str, check: Callable[[], None]) -> None:
    """Run ``check``; what it finds wrong is in ``prefix``."""
    try:
        check()
    except FieldError as error:
        raise FieldError(f"{prefix}.{error.field}", error.message) from error
