"""Waits at every start that need not be: Hydra composes the configuration twice, and copies itself to list a choice.

It composes once to learn whether the configuration asks for a sweep by itself, as ``experiment=lr_sweep`` does, and then
again. For ``--help`` it lists a hundred groups, and copies all that it knows of configurations for each. And OmegaConf reads
YAML by Python where libyaml is there.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import omegaconf._utils
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.object_type import ObjectType


@contextlib.contextmanager
def without_detours(configs: Path, keys: Collection[str]) -> Iterator[None]:
    """Within it, Hydra composes once and copies nothing to list choices; what it composes and lists is the same.

    Args:
        configs: the folder of ``config.yaml``.
        keys: first parts of the keys that choose nothing of Hydra's, such as ``optimizer``.
    """
    hydra: Any = Hydra
    loader: Any = ConfigLoaderImpl
    ask, listing = hydra.get_mode, loader.get_group_options

    def get_mode(self: Any, config_name: str | None, overrides: list[str]) -> Any:
        return None if says_no_mode(configs, keys, overrides) else ask(self, config_name, overrides)

    def get_group_options(
        self: Any,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> Any:
        if config_name or overrides:  # which may add places to look in
            return listing(self, group_name, results_filter, config_name, overrides)
        return self.repository.get_group_options(group_name, results_filter)

    hydra.get_mode, loader.get_group_options = get_mode, get_group_options
    omegaconf._utils.get_yaml_loader = _fast_yaml
    try:
        yield
    finally:
        hydra.get_mode, loader.get_group_options = ask, listing
        omegaconf._utils.get_yaml_loader = _omegaconfs_yaml


_omegaconfs_yaml = omegaconf._utils.get_yaml_loader


@functools.cache
def _fast_yaml() -> Any:
    """OmegaConf's own loader, made once, and on libyaml's parser where PyYAML has that."""
    plain = yaml.SafeLoader
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", plain)
    try:
        return _omegaconfs_yaml()
    finally:
        yaml.SafeLoader = plain


def says_no_mode(configs: Path, keys: Collection[str], overrides: list[str]) -> bool:
    """Whether nothing can set ``hydra.mode``: overrides of ``keys`` alone, no other folder of configurations, and not our own."""
    flags = [word for word in sys.argv[1:] if word.startswith("-") and word not in ("-m", "--multirun")]
    harmless = all(re.split(r"[.=@]", word.lstrip("+"), maxsplit=1)[0] in keys for word in overrides)
    return (
        not flags and harmless and not re.search(r"^\s+mode\s*:", (configs / "config.yaml").read_text(), re.MULTILINE)
    )
