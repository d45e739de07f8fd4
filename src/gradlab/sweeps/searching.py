"""The settings of ``hydra/sweeper=gradlab_optuna``, typed and checked. Imports no Optuna."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from gradlab.bounds import check_number, check_option
from gradlab.errors import ConfigError, FieldError, did_you_mean
from gradlab.sweeps.settings import typed
from gradlab.sweeps.space import Dimension, Space

SAMPLERS: dict[str, tuple[str, ...]] = {
    "tpe": ("n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar"),
    "random": (),
    "qmc": ("qmc_type", "scramble"),
    "grid": (),
    "cmaes": ("n_startup_trials", "sigma0", "popsize", "use_separable_cma", "with_margin", "lr_adapt"),
}
"""The samplers, and those of Optuna's options for each that can be given."""
OBJECTIVES = ("val_accuracy", "val_loss")
TRIALS = 30
"""Trials of a search that says no other number and is no grid."""


@dataclass(frozen=True)
class Searching:
    """How a search goes; the numbers are in configs/hydra/sweeper/gradlab_optuna.yaml.

    sampler: ``tpe``, ``random``, ``qmc``, ``grid`` or ``cmaes``.
    n_trials: that come to something, all seeds of one counted once, ≥ 1; null for the whole grid, or 30.
    batch: trials that are chosen at once and run side by side, ≥ 1.
    seed: of the choices, ≥ 0; not of the trainings.
    objective: ``val_accuracy``, the best validation accuracy, as high as possible; or ``val_loss``, the lowest
        validation loss, as low as possible. Means over the seeds.
    storage: a database as SQLAlchemy names it, or an SQLite file; null for one in the sweep's folder.
    study_name: in the storage; null for the sweep's own.
    options: of Optuna's sampler, by its own names.
    params: what is searched, beside the command line.
    """

    sampler: str
    n_trials: int | None
    batch: int
    seed: int
    objective: str
    storage: str | None
    study_name: str | None
    options: dict[str, Any] | None
    params: dict[str, Any] | None

    def __post_init__(self) -> None:
        check_option(self, "sampler", SAMPLERS)
        if self.n_trials is not None:
            check_number(self, "n_trials", at_least=1)
        check_number(self, "batch", at_least=1)
        check_number(self, "seed", at_least=0, at_most=2**31 - 1)
        check_option(self, "objective", OBJECTIVES)
        known = SAMPLERS[self.sampler]
        for name in self.options or {}:
            if name not in known:
                has = f"It has {', '.join(known)}." if known else "It has none."
                raise FieldError(
                    "options",
                    f"has '{name}', which sampler={self.sampler} does not take.{did_you_mean(name, known)} {has}",
                )

    def trials(self, space: Space) -> int:
        """How many trials there are to be.

        Raises:
            ConfigError: the sampler cannot search ``space``.
        """
        grid = 1
        for dimension in space.dimensions:
            grid *= len(dimension.values or [])
            self._check(dimension)
        if self.sampler == "cmaes" and len(space.dimensions) < 2:
            raise ConfigError(
                "hydra.sweeper.sampler=cmaes searches two numbers or more, and only "
                f"{space.dimensions[0].key} is searched. Take sampler=tpe, or search another number as well."
            )
        if self.sampler == "grid":
            return min(grid, self.n_trials or grid)
        return self.n_trials or TRIALS

    def _check(self, dimension: Dimension) -> None:
        typed_as = f"{dimension.key}={dimension.written}"
        if self.sampler == "grid" and dimension.values is None:
            raise ConfigError(
                f"hydra.sweeper.sampler=grid tries every value, and {typed_as} has no end of them. Write them out, as in "
                f"{dimension.key}={'logspace' if dimension.log else 'linspace'}({dimension.low:g},{dimension.high:g},5), or take another sampler."
            )
        if self.sampler == "cmaes" and dimension.kind == "choice":
            raise ConfigError(
                f"hydra.sweeper.sampler=cmaes searches numbers, and {typed_as} is a list of choices. Choose one, write an "
                "interval, or take sampler=tpe."
            )


def searching(values: dict[str, Any]) -> Searching:
    """The typed settings.

    Raises:
        ConfigError: one is wrong or unknown, or the library is not installed.
    """
    settings = typed(Searching, values, "hydra.sweeper")
    for package in ("optuna", *(["cmaes"] if settings.sampler == "cmaes" else [])):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"hydra/sweeper=gradlab_optuna needs the package {package}, which is not installed: pip install 'gradlab[optuna]'."
            )
    return settings
