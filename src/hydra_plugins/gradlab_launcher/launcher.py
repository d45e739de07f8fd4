"""The launcher ``hydra/launcher=gradlab``: hands the points of a multirun to ``gradlab.sweeps``."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GradlabLauncher(Launcher):
    """Runs the points of a sweep in worker processes. ``settings`` are those of configs/hydra/launcher/gradlab.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from gradlab.sweeps.current import launch

        assert self.hydra_context is not None
        assert self.config is not None
        points = [list(overrides) for overrides in job_overrides]
        return launch(self.hydra_context.config_loader, self.config, points, self.settings)
