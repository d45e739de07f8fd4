"""CMA-ES without pickles. Optuna's sampler keeps its state as one in the study's database, and loads what it finds there.

Whoever can write to that database could run code by it. The state follows from the trials alone, so here it is made from them
anew: nothing is kept, and nothing but numbers is read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.samplers import CmaEsSampler
from optuna.study import StudyDirection

from gradlab.errors import GradlabError

_OVERRIDDEN = (
    "_restore_optimizer",
    "_split_optimizer_str",
    "_init_optimizer",
    "_get_solution_trials",
    "_attr_key_generation",
)


class PlainCmaEs(CmaEsSampler):  # type: ignore[misc]
    """Optuna's ``CmaEsSampler``, with the same choices but for rounding; see above.

    Raises:
        GradlabError: this version of Optuna is made otherwise, so that it might load a pickle after all.
    """

    def __init__(self, **options: Any) -> None:
        if missing := [name for name in _OVERRIDDEN if not hasattr(CmaEsSampler, name)]:
            raise GradlabError(
                f"hydra.sweeper.sampler=cmaes does not know this version of Optuna (CmaEsSampler has no {missing[0]}) and might "
                "load a pickle with it. Take another sampler, or an earlier version."
            )
        super().__init__(**options)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        self._direction, self._space = study.direction, search_space
        return dict(super().sample_relative(study, trial, search_space))

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        return {}  # what would be kept

    def _restore_optimizer(self, completed_trials: Sequence[Any]) -> Any:
        """The state in which the last of them was chosen; None before the first generation is complete."""
        newest = max((one.system_attrs.get(self._attr_key_generation, 0) for one in completed_trials), default=0)
        if not newest:
            return None
        transform = _SearchSpaceTransform(self._space, transform_step=not self._with_margin, transform_0_1=True)
        before = self._cma_rng.rng.get_state()  # a state that is restored draws nothing
        optimizer: Any = self._init_optimizer(transform, self._direction)
        self._cma_rng.rng.set_state(before)
        sign = 1 if self._direction == StudyDirection.MINIMIZE else -1
        while optimizer.generation < newest:
            trials = self._get_solution_trials(completed_trials, optimizer.generation)[: optimizer.population_size]
            if len(trials) < optimizer.population_size:
                break
            optimizer.tell([(self._place(one, transform), sign * one.value) for one in trials])
        return optimizer

    def _place(self, trial: Any, transform: Any) -> Any:
        """Where a trial lies in the space; with margins it is kept with the trial."""
        if self._with_margin:
            return np.array(trial.system_attrs["x_for_tell"], dtype=np.float64)
        return transform.transform(trial.params)
