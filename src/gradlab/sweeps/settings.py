"""The settings of ``hydra/launcher=gradlab``, typed and checked."""

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradlab.bounds import check_number
from gradlab.errors import ConfigError, FieldError


@dataclass(frozen=True)
class Launching:
    """How the points of a sweep are run; the numbers are in configs/hydra/launcher/gradlab.yaml.

    workers: processes on the CPU, ≥ 1; or null for as many as there are cores for their threads and memory for them.
    runs_per_gpu: processes to each GPU, ≥ 1.
    fail_fast: whether the first failed point ends the sweep.
    population: ``auto`` trains points that differ in numbers only (``sweeps/grouping.py``) at once, as many as measure
        fastest; ``off`` trains each alone, and a number ≥ 2 so many at once.
    """

    workers: int | None
    runs_per_gpu: int
    fail_fast: bool
    population: Any

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_number(self, "workers", at_least=1, at_most=1024)
        check_number(self, "runs_per_gpu", at_least=1, at_most=64)
        # Hydra's grammar, like YAML's first version, reads a bare off as false.
        number = isinstance(self.population, int) and not isinstance(self.population, bool) and self.population >= 2
        if not (number or self.population is False or self.population in ("auto", "off")):
            raise FieldError("population", f"must be auto, off or a whole number ≥ 2, not '{self.population}'")

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
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Launching), OmegaConf.create(values))
        settings = OmegaConf.to_object(merged)
    except FieldError as error:
        raise ConfigError(f"hydra.launcher.{error.field} {error.message}.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.launcher.{error.full_key}: {str(error).splitlines()[0]}.") from error
    assert isinstance(settings, Launching)
    return settings
