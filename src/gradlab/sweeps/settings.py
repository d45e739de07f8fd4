"""The settings of ``hydra/launcher=gradlab``, typed and checked."""

from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradlab.bounds import check_number, check_option
from gradlab.durations import duration_of
from gradlab.errors import ConfigError, FieldError
from gradlab.sweeps.clusters import Ray, Slurm

Settings = TypeVar("Settings")
EXECUTORS = ("local", "slurm", "ray")
EARLY_STOPPING = ("none", "asha", "halving")


@dataclass(frozen=True)
class Launching:
    """How the points of a sweep are run; the numbers are in configs/hydra/launcher/gradlab.yaml.

    executor: where points are trained: ``local`` (this machine), ``slurm`` (jobs of a cluster) or ``ray`` (nodes of one).
    slurm, ray: of its jobs, and of its workers.
    workers: processes on the CPU, ≥ 1; or null for as many as there are cores for their threads and memory for them. Of slurm, jobs
        that run at once, and of ray, workers; null for as many as the cluster has room for.
    runs_per_gpu: processes to each GPU, ≥ 1.
    fail_fast: whether the first failed point ends the sweep.
    population: ``auto`` trains points that differ in numbers only (``sweeps/grouping.py``) at once, as many as measure
        fastest; ``off`` trains each alone, and a number ≥ 2 so many at once.
    plan: the folder of an earlier sweep, or its plan.json: as many points of a group are trained at once as there; or null.
    early_stopping: ``none``; ``asha``, which judges a setting once at each rung; or ``halving``, which judges it again when
        others arrive there (see ``halving``).
    reduction_factor: of n settings at a rung the best n/reduction_factor go on, rounded up; above 1.
    first_rung: where settings are first compared, a length; the next rungs are each reduction_factor times as far.
    judged_by: seeds of a setting, at least, by which it is judged, ≥ 1; or null for half of them, rounded up.
    """

    executor: str
    slurm: Slurm
    ray: Ray
    workers: int | None
    runs_per_gpu: int
    fail_fast: bool
    population: Any
    plan: str | None
    early_stopping: str
    reduction_factor: float
    first_rung: str
    judged_by: int | None

    def __post_init__(self) -> None:
        check_option(self, "executor", EXECUTORS)
        if self.workers is not None:
            check_number(self, "workers", at_least=1, at_most=1024)
        check_number(self, "runs_per_gpu", at_least=1, at_most=64)
        # Hydra's grammar, like YAML's first version, reads a bare off as false.
        number = isinstance(self.population, int) and not isinstance(self.population, bool) and self.population >= 2
        if not (number or self.population is False or self.population in ("auto", "off")):
            raise FieldError("population", f"must be auto, off or a whole number ≥ 2, not '{self.population}'")
        if self.plan is not None and self.population != "auto":
            raise FieldError(
                "plan", f"and hydra.launcher.population={self.population} both say how many: take one away"
            )
        check_option(self, "early_stopping", EARLY_STOPPING)
        check_number(self, "reduction_factor", above=1)
        first = duration_of(self, "first_rung")
        if not first.number:
            raise FieldError("first_rung", "must be above 0: before the first step all settings are alike")
        if self.judged_by is not None:
            check_number(self, "judged_by", at_least=1)

    @property
    def members(self) -> int | None:
        """Of a population; 1 where every point is trained alone, None where that is to be measured."""
        if self.population == "auto":
            return None
        return 1 if self.population in ("off", False) else int(self.population)


def launching(values: dict[str, Any]) -> Launching:
    """The typed settings.

    Raises:
        ConfigError: one is wrong or unknown.
    """
    return typed(Launching, values, "hydra.launcher")


def typed(kind: type[Settings], values: dict[str, Any], where: str) -> Settings:
    """``values`` as the dataclass ``kind``; ``where`` they stand in the configuration, for the message.

    Raises:
        ConfigError: one is wrong or unknown.
    """
    try:
        empty = OmegaConf.structured(kind)
        for key in empty:
            if isinstance(part := empty._get_node(key), DictConfig):
                OmegaConf.set_readonly(part, False)  # as the whole is, of a frozen dataclass
        merged = OmegaConf.merge(empty, OmegaConf.create(values))
        settings = OmegaConf.to_object(merged)
    except FieldError as error:
        raise ConfigError(f"{where}.{error.field} {error.message}.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}.{error.full_key}: {str(error).splitlines()[0]}.") from error
    assert isinstance(settings, kind)
    return settings
