"""The sweeper ``hydra/sweeper=gradlab``: Hydra's basic one, with ``logspace`` and ``linspace`` also in ``hydra.sweeper.params``."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins import basic_sweeper


class GradlabSweeper(basic_sweeper.BasicSweeper):
    """Every combination of the swept values."""

    def _parse_config(self) -> list[str]:
        from gradlab.sweeps.grids import expand

        return [expand(f"{key}={value}") for key, value in (self.params or {}).items()]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every point once to see that it can be; our own launcher does that itself, and lists all that cannot."""
        from hydra_plugins.gradlab_launcher.launcher import GradlabLauncher

        launcher: Any = self.launcher
        if not isinstance(launcher, GradlabLauncher):
            super().validate_batch_is_legal(batch)
