"""The sweeper ``hydra/sweeper=gradlab_optuna``: hands a search to ``gradlab.sweeps``."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GradlabOptunaSweeper(Sweeper):
    """Points that Optuna chooses by how earlier ones did. ``settings`` are those of configs/hydra/sweeper/gradlab_optuna.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from gradlab.sweeps.current import search
        from hydra_plugins.gradlab_launcher.launcher import GradlabLauncher

        assert self.hydra_context is not None
        assert self.config is not None
        launcher: Any = self.launcher
        launching = launcher.settings if isinstance(launcher, GradlabLauncher) else None
        search(self.hydra_context.config_loader, self.config, arguments, launching, self.settings)
