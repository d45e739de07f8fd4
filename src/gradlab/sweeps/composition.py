"""From the overrides of each point to its typed, validated configuration; all of them before anything runs.

Hydra composes one configuration in tens of milliseconds, most of them for files and the defaults list. Points that make
the same choices and differ in values only share that part: the values are then set by Hydra's own function on a copy.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gradlab.config import AXES, Config, Origin, build_config
from gradlab.errors import ConfigError

Explain = Callable[[Exception], str]
SHOWN = 20
"""How many impossible points one message lists."""


def compose_all(
    loader: Any, master: DictConfig, points: Sequence[list[str]], explain: Explain, elsewhere: bool = False
) -> list[tuple[list[str], Config]]:
    """The overrides and the configuration of each point.

    Args:
        loader: Hydra's.
        master: the multirun's own configuration.
        points: overrides, a list for each point.
        explain: one message for an error of Hydra's.
        elsewhere: whether they are trained on other machines.

    Raises:
        ConfigError: points are impossible; the message lists all of them.
    """
    composer = Composer(loader, master)
    built, impossible = [], {}
    choices_built: dict[str, Any] = {}
    for overrides in points:
        said = list(filter_overrides(overrides))
        try:
            composed, choices = composer.compose(overrides)
            built.append((said, build_config(composed, Origin(said, choices, elsewhere), choices_built)))
        except (ConfigError, HydraException, OmegaConfBaseException, ValueError) as error:
            impossible[" ".join(said)] = explain(error)
    if impossible:
        raise ConfigError(_listed(impossible, len(points)))
    return built


def _listed(impossible: dict[str, str], points: int) -> str:
    """One message for all impossible points, those with the same mistake together."""
    if points == len(impossible) and len(set(impossible.values())) == 1:
        return next(iter(impossible.values()))
    by_message: dict[str, list[str]] = {}
    for point, message in impossible.items():
        by_message.setdefault(message, []).append(point)
    lines = [f"{len(impossible)} of the sweep's {points} points are impossible, so none is run:"]
    for message, those in by_message.items():
        lines.append(f"  {message}")
        lines += [f"    {point}" for point in those[:SHOWN]]
        if len(those) > SHOWN:
            lines.append(f"    and {len(those) - SHOWN} more")
    return "\n".join(lines)


class Composer:
    """Composes points, keeping what those with the same choices share."""

    def __init__(self, loader: Any, master: DictConfig) -> None:
        self.loader = loader
        self.master = master
        self.groups = {str(group) for group in master.hydra.runtime.choices} | set(AXES)
        self.parser = OverridesParser.create(config_loader=loader)
        self._shared: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]] | None] = {}

    def compose(self, overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
        """The composed configuration of one point, without Hydra's own part, and the chosen file of each axis."""
        parsed = self.parser.parse_overrides(overrides)
        values = [override for override in parsed if self._is_value(override)]
        rest = tuple(str(override.input_line) for override in parsed if not self._is_value(override))
        if self._overlap(parsed):  # their order matters
            return self.plain(overrides)
        if rest not in self._shared:
            composed, choices = self.plain(list(rest))
            self._shared[rest] = None if _refers_to_hydra(composed) else (composed, choices)
        shared = self._shared[rest]
        if shared is None:
            return self.plain(overrides)
        composed = copy.deepcopy(shared[0])
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return composed, shared[1]

    def plain(self, overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
        """The same, all of it by Hydra."""
        composed = self.loader.load_sweep_config(self.master, overrides)
        HydraConfig.instance().set_config(composed)  # for `${hydra:…}`
        choices = {axis: str(choice) for axis, choice in composed.hydra.runtime.choices.items() if axis in AXES}
        with open_dict(composed):
            del composed["hydra"]
        return composed, choices

    def _is_value(self, override: Override) -> bool:
        """Whether an override only sets the value of a key that is there."""
        return (
            not (override.is_add() or override.is_force_add() or override.is_delete())
            and override.package is None
            and override.key_or_group not in self.groups
            and "/" not in override.key_or_group
            and not override.is_hydra_override()
            and not isinstance(override.value(), dict)
        )

    def _overlap(self, overrides: list[Override]) -> bool:
        """Whether one override sets a part of what another sets; a chosen file is read before either."""
        keys = sorted(
            f"{override.key_or_group.replace('[', '.')}."
            for override in overrides
            if override.key_or_group not in self.groups or isinstance(override.value(), dict)
        )
        return any(later.startswith(earlier) for earlier, later in itertools.pairwise(keys))


def _refers_to_hydra(composed: DictConfig) -> bool:
    return "${hydra" in OmegaConf.to_yaml(composed)
