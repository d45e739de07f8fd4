"""No configuration runs code through Hydra itself, which would call whatever a ``_target_`` or a logging section names, set
variables that other programs obey, and write to any file.

``gradlab.config`` refuses ``_target_`` in our own part of a configuration. The part of Hydra's (``hydra.callbacks``,
``hydra.launcher``, ``hydra.job_logging`` …) is used by Hydra before we see it, so it is looked at as soon as it is composed.
Hydra has a list of callables that it refuses itself, and says that this is no boundary.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from gradlab.errors import ConfigError

_PLUGINS = r"(hydra_plugins|hydra\._internal\.core_plugins)(\.\w+)+"
_PARTS = r"optuna\.(samplers|pruners)\.\w+"
ALLOWED = {
    "hydra.launcher._target_": _PLUGINS,  # Hydra itself takes a plugin's class there and nothing else
    "hydra.sweeper._target_": _PLUGINS,
    "hydra.sweeper.sampler._target_": _PARTS,
    "hydra.sweeper.pruner._target_": _PARTS,
}
"""Where Hydra's own configuration may name a callable, and what it may be called."""
_LOGGING = r"hydra\.(job|hydra)_logging\."
_HANDLERS = (
    r"logging\.(StreamHandler|FileHandler|NullHandler|handlers\.(Timed)?RotatingFileHandler)|colorlog\.ColoredFormatter"
)
_FILENAME = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
"""Where Hydra's own logging writes. Elsewhere a line of a text of one's choice could become one of a shell's start-up file."""
_STREAMS = r"ext://sys\.(stdout|stderr)"


_REFUSED = {
    "hydra.job.env_set": "Variables such as PYTHONPATH decide what code runs: set them in the shell instead.",
    "hydra.output_subdir": "Hydra would write files there, over those that there are; gradlab keeps the configuration of each "
    "run in its own folder.",
}


@contextlib.contextmanager
def only_configuration() -> Iterator[None]:
    """Within it, every configuration that Hydra composes is refused where it would run code.

    Raises:
        ConfigError: by whatever composes.
    """
    compose = ConfigLoaderImpl.load_configuration

    def checked(self: ConfigLoaderImpl, *arguments: Any, **named: Any) -> DictConfig:
        composed = compose(self, *arguments, **named)
        refuse_callables(OmegaConf.to_container(composed.get("hydra"), resolve=False), "hydra")
        return composed

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def refuse_callables(node: Any, path: str) -> None:
    """Raise ``ConfigError`` where ``node``, Hydra's part of a configuration, names a callable that is not ``ALLOWED``."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        here = f"{path}.{key}"
        if key == "_target_" and not _fits(ALLOWED.get(here), child):
            raise ConfigError(_refusal(here, child))
        if re.match(_LOGGING, here):
            _refuse_in_logging(str(key), child, here)
        if here in _REFUSED and child:
            raise ConfigError(f"{here}: '{child}' is refused. {_REFUSED[here]}")
        refuse_callables(child, here)


def _refuse_in_logging(key: str, value: Any, path: str) -> None:
    """Python's logging calls what ``()`` and ``class`` name, and imports what ``ext://`` does."""
    if key == "filename" and value != _FILENAME:
        raise ConfigError(f"{path}: '{value}' is refused. A log may be written to {_FILENAME} alone.")
    calls = key == "()" or (key == "class" and not _fits(_HANDLERS, value))
    imports = isinstance(value, str) and "ext://" in value and not _fits(_STREAMS, value)
    if calls or imports:
        raise ConfigError(_refusal(path, value))


def _fits(pattern: str | None, value: Any) -> bool:
    return pattern is not None and isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _refusal(path: str, value: Any) -> str:
    return (
        f"{path}: '{value}' is refused. It would run any code that it names, and a configuration must not. Take it out of "
        "the file or the command line that sets it."
    )
