"""The one bridge from a composed Hydra configuration to typed, validated dataclasses.

A value travels: command line → composed configuration → the dataclass of its choice → ``build``. Everything that can be
known to be wrong without reading data is said here, as one ``ConfigError``, before torch is imported.
"""

import copy
import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from gradlab.averaging import AVERAGING, Averaging
from gradlab.data.augment import AUGMENTATIONS, Augmentation
from gradlab.data.datasets import DATASETS, Dataset
from gradlab.data.datasets.base import batch_examples
from gradlab.data.spec import DataSpec
from gradlab.durations import Horizon
from gradlab.errors import ConfigError, FieldError, did_you_mean
from gradlab.initializers import INITIALIZERS, Initializer
from gradlab.losses import LOSSES, Loss
from gradlab.models import MODELS, Model
from gradlab.optimizers import OPTIMIZERS, Optimizer
from gradlab.optimizers.schedule_free import ScheduleFree
from gradlab.optimizers.timm import Timm
from gradlab.param_groups import PARAM_GROUPS, ParamGroups
from gradlab.registry import Registry
from gradlab.schedules import SCHEDULES, Schedule
from gradlab.secrecy import secrets
from gradlab.settings import TRACKING, TRAINERS, Tracking, Trainer, without_secret
from gradlab.wrappers import WRAPPERS, Wrapper

AXES: dict[str, Registry[Any]] = {
    "data": DATASETS,
    "model": MODELS,
    "init": INITIALIZERS,
    "loss": LOSSES,
    "augment": AUGMENTATIONS,
    "optimizer": OPTIMIZERS,
    "param_groups": PARAM_GROUPS,
    "wrapper": WRAPPERS,
    "schedule": SCHEDULES,
    "averaging": AVERAGING,
    "trainer": TRAINERS,
    "tracking": TRACKING,
}

LISTED = "augment"
"""The one axis of which a list is chosen: `augment=[crop,flip]`. Its part of the configuration holds a part for each."""


@dataclass(frozen=True)
class Config:
    """One run, fully decided. ``composed`` is the resolved configuration as plain containers, for the record.

    augment: in the order in which they are applied.
    seed: of everything random in the run but the validation split, ≥ 0.
    run_name: in MLflow; or null for one made of the choices.
    output_dir: where the run's folder is made.
    plots: whether figures are drawn at the end.
    find_lr: whether the learning rate is searched for before the run; ``optimizer.lr`` is what stays where that is not sure.
    """

    data: Dataset
    model: Model
    init: Initializer
    loss: Loss
    augment: tuple[Augmentation, ...]
    optimizer: Optimizer
    param_groups: ParamGroups
    wrapper: Wrapper
    schedule: Schedule
    averaging: Averaging
    trainer: Trainer
    tracking: Tracking
    seed: int
    run_name: str | None
    output_dir: str
    plots: bool
    find_lr: bool
    composed: dict[str, Any] = field(repr=False)

    @cached_property
    def spec(self) -> DataSpec:
        return self.data.spec()

    @cached_property
    def batch_examples(self) -> int:
        return batch_examples(self.data.batch_size, self.spec.train_examples)

    @cached_property
    def horizon(self) -> Horizon:
        return self.trainer.horizon(self.spec.train_examples, self.batch_examples)

    @property
    def name(self) -> str:
        """The run's name: the given one, or its choices, learning rate and seed."""
        if self.run_name is not None:
            return self.run_name
        model = getattr(self.model, "arch", self.model.name)
        return f"{self.optimizer_name} lr={self.optimizer.lr:.6g} {model} {self.data.name} seed={self.seed}"

    @property
    def optimizer_name(self) -> str:
        """``adamw``; of timm's optimizers ``timm adan``."""
        return f"timm {self.optimizer.opt}" if isinstance(self.optimizer, Timm) else self.optimizer.name


@dataclass(frozen=True)
class Origin:
    """Where the values of a composed configuration come from, for error messages.

    overrides: the command line's, such as ``optimizer.lr=-1``.
    choices: the chosen file of each axis, such as ``{"optimizer": "adam"}``.
    elsewhere: whether the run trains on another machine, whose devices are not known here.
    """

    overrides: Sequence[str] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False

    def of(self, key: str) -> str:
        """Where ``key`` was set: the override as it was typed, or the file."""
        for override in reversed(self.overrides):
            target, value = override_key(override), override.partition("=")[2]
            above = key.startswith((f"{target}.", f"{target}["))
            # `optimizer=sgd` chooses a file, and the file sets the numbers.
            chose_a_file = above and target in AXES and value and not value.startswith("{")
            if key == target or target.startswith(f"{key}.") or (above and not chose_a_file):
                return f"on the command line: {without_secret(override)}"
        axis = key.split(".")[0]
        choice = key.split(".")[1] if axis == LISTED and "." in key else self.choices.get(axis)
        return f"in configs/{axis}/{choice}.yaml" if "." in key and choice else "in configs/config.yaml"


def override_key(override: str) -> str:
    """``'+optimizer.lr=3'`` → ``'optimizer.lr'``."""
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def build_config(
    composed: DictConfig | dict[str, Any], origin: Origin | None = None, built: dict[str, Any] | None = None
) -> Config:
    """The typed, validated configuration of one run. ``built`` keeps choices for the next, which a sweep mostly shares.

    Args:
        composed: by Hydra, or the ``composed`` of a configuration that was built before.
        origin: where its values were set.
        built: see above.

    Raises:
        ConfigError: something is wrong, unknown, missing or does not fit together; the message says what, where it was
            set and what to do.
    """
    origin = origin or Origin()
    refuse_repeated(origin.overrides)
    try:
        plain: Any = (
            copy.deepcopy(composed) if isinstance(composed, dict) else OmegaConf.to_container(composed, resolve=True)
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)} (set {origin.of(str(error.full_key))}).") from error
    _refuse_targets(plain, origin)
    _refuse_secrets(plain, origin)
    plain.pop("experiment", None)
    if not isinstance(plain.pop("resume", False), bool):
        raise ConfigError(
            f"resume must be true or false with -m (set {origin.of('resume')}). Without it, resume=RUN goes on with one run."
        )
    if plain.pop("fork", False):
        raise ConfigError(
            f"fork=true needs the run that it starts from, without -m: resume=RUN (set {origin.of('fork')})."
        )
    find_lr = plain.pop("find_lr", False)
    if not isinstance(find_lr, bool):
        raise ConfigError(f"find_lr must be true or false (set {origin.of('find_lr')}).")
    imports = plain.pop("imports", None)
    imports = [] if imports is None else imports
    _import_user_modules(imports, origin)
    top_level = _top_level(plain, origin)
    choices, built = {}, {} if built is None else built
    for axis, registry in AXES.items():
        key, make = f"{axis} {plain.get(axis)!r}", _choices if axis == LISTED else _choice
        if key not in built:
            built[key] = make(axis, registry, plain.get(axis), origin)
        choices[axis] = built[key]
    # A run of somebody's own model, or of a searched rate, says where that came from; others are recorded as if there were no such key.
    composed_too = ({"imports": imports} if imports else {}) | ({"find_lr": True} if find_lr else {})
    config = Config(**choices, **top_level, find_lr=find_lr, composed=plain | composed_too)
    _check_together(config, origin)
    return config


def refuse_repeated(overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` where two overrides set one key: nobody can tell which was meant."""
    seen: dict[str, str] = {}
    for override in overrides:
        key = override_key(override)
        if key in seen:
            raise ConfigError(
                f"{key} is given twice on the command line: '{seen[key]}' and '{without_secret(override)}'. Give it once."
            )
        seen[key] = without_secret(override)


def _refuse_targets(node: Any, origin: Origin, path: str = "") -> None:
    """Hydra's ``_target_`` runs whatever callable it names, so no configuration of ours may hold one."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        here = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            raise ConfigError(
                f"{here}: '_target_' is not allowed (set {origin.of(here)}). It would run any code that it names. "
                "Register your own class and name its module in imports=[…]; see CONTRIBUTING.md."
            )
        _refuse_targets(child, origin, here)


def _refuse_secrets(plain: Any, origin: Origin) -> None:
    """A configuration is recorded in files and in MLflow, so it must not hold what ``${oc.env:…}`` may have brought in."""
    known = secrets()

    def look(node: Any, path: str) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            look(child, f"{path}.{key}" if path else str(key))
        variable = next((known[text] for text in known if isinstance(node, str) and text in node), None)
        if variable is not None:
            raise ConfigError(
                f"{path} holds the value of the environment variable {variable}, which is a secret, and configurations are "
                "recorded. Take it out: MLflow reads its own from the environment."
            )

    look(plain, "")


def _import_user_modules(modules: Any, origin: Origin) -> None:
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise ConfigError(f"imports must be a list of module names, not '{modules}' (set {origin.of('imports')}).")
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, ValueError, TypeError) as error:  # the latter two: an empty and a relative name
            raise ConfigError(
                f"imports: '{module}' cannot be imported ({error}) (set {origin.of('imports')}). It must be installed, "
                "or its folder be in PYTHONPATH."
            ) from error


_TOP_LEVEL: dict[str, tuple[type, ...]] = {
    "seed": (int,),
    "name": (str, type(None)),
    "output_dir": (str,),
    "plots": (bool,),
}


def _top_level(plain: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """The keys of the configuration that belong to no axis."""
    known = [*AXES, *_TOP_LEVEL, "imports", "experiment", "find_lr", "resume", "fork"]
    for key in plain:
        if key not in known:
            raise ConfigError(f"There is no key '{key}' (set {origin.of(str(key))}).{did_you_mean(str(key), known)}")
    for key, types in _TOP_LEVEL.items():
        if key not in plain:
            raise ConfigError(f"{key} is missing; configs/config.yaml has its default.")
        value = plain[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise ConfigError(
                f"{key} must be {wanted}, not '{'null' if value is None else value}' (set {origin.of(key)})."
            )
    if plain["seed"] < 0:
        raise ConfigError(f"seed must be at least 0, not {plain['seed']} (set {origin.of('seed')}).")
    return {
        "seed": plain["seed"],
        "run_name": plain["name"],
        "output_dir": plain["output_dir"],
        "plots": plain["plots"],
    }


def _choices(axis: str, registry: Registry[Any], values: Any, origin: Origin) -> tuple[Any, ...]:
    """The dataclasses of the axis of which a list is chosen, in the order of that list."""
    for override in origin.overrides:
        listed = re.fullmatch(r"\[(.*)\]", override.partition("=")[2].strip())
        names = [name.strip() for name in listed[1].split(",")] if listed and override_key(override) == axis else []
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:  # Hydra takes it once without a word
            raise ConfigError(f"{axis}: '{twice}' is listed twice (set on the command line: {override}). List it once.")
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(
            f"{axis} must be a list of {', '.join(sorted(registry))}, as in {axis}=[{','.join(sorted(registry)[:2])}], and "
            f"it is {values!r} (set {origin.of(axis)})."
        )
    chosen = []
    for name, numbers in values.items():
        path = f"{axis}.{name}"
        if name in registry and isinstance(numbers, dict) and "name" not in numbers:
            others = [other for other, own in values.items() if isinstance(own, dict) and "name" in own]
            raise ConfigError(
                f"{path} has numbers, and {name} is not among the chosen augmentations (set {origin.of(path)}). Choose it "
                f"with {axis}=[{','.join([*others, name])}], or take its numbers away with '~{path}'."
            )
        chosen.append(_choice(path, registry, numbers, origin))
    return tuple(chosen)


def _choice(path: str, registry: Registry[Any], values: Any, origin: Origin) -> Any:
    """The dataclass of one choice, from its part of the configuration, which is at ``path``."""
    axis = registry.axis
    if not isinstance(values, dict) or not values.get("name"):
        raise ConfigError(
            f"{path} must be one of {', '.join(sorted(registry))}, and it is {values!r} (set {origin.of(path)})."
        )
    name = values["name"]
    if not isinstance(name, str) or name not in registry:
        raise ConfigError(
            f"{path}.name: there is no {axis} '{name}' (set {origin.of(f'{path}.name')})."
            f"{did_you_mean(str(name), registry)} Choices: {', '.join(sorted(registry))}."
        )
    entry = registry[name]
    known = [item.name for item in fields(entry)]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(entry), OmegaConf.create(values))
        return OmegaConf.to_object(merged)
    except FieldError as error:
        key = f"{path}.{error.field}"
        raise ConfigError(f"{key} {error.message} (set {origin.of(key)}).") from error
    except MissingMandatoryValue as error:
        key = f"{path}.{error.key}"
        raise ConfigError(f"{key} is missing, and {axis}={name} needs it (set {origin.of(key)}).") from error
    except ConfigKeyError as error:
        key = str(error.key)
        hint = did_you_mean(key, known) or f" It has {', '.join(item for item in known if item != 'name') or 'none'}."
        raise ConfigError(f"{axis}={name} has no key '{key}' (set {origin.of(f'{path}.{key}')}).{hint}") from error
    except OmegaConfBaseException as error:
        full_key = str(error.full_key)
        key, found = f"{path}.{full_key}", _lookup(values, full_key)
        raise ConfigError(
            f"{key} must be {_wanted_type(entry, full_key)}, not '{'null' if found is None else found}' (set {origin.of(key)})."
        ) from error


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "None": "null",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "list[str]": "a list of texts",
    "dict[str, Any]": "names with their values, as {eps: 1e-6}",
}


def _wanted_type(entry: type[Any], full_key: str) -> str:
    """The type of a field, or of an entry of the list in it, in words."""
    name = re.split(r"[.\[]", full_key)[0]
    annotation = next((item.type for item in fields(entry) if item.name == name), str)
    text = annotation.__name__ if annotation in (int, float, bool, str) else str(annotation).replace("typing.", "")
    if "[" in full_key:
        text = text.removeprefix("list[").removesuffix("]")
    return " or ".join(_TYPE_WORDS.get(part.strip(), part.strip()) for part in text.split("|"))


def choice(axis: str, values: Any, origin: Origin | None = None) -> Any:
    """The dataclass of one axis alone, from its part of a configuration, such as a recorded run's.

    Raises:
        ConfigError: as ``build_config``.
    """
    return _choice(axis, AXES[axis], values, origin or Origin())


def import_user_modules(modules: list[str]) -> None:
    """Import modules that register a user's own choices.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    _import_user_modules(modules, Origin())


def _lookup(values: dict[str, Any], full_key: str) -> Any:
    node: Any = values
    for part in re.findall(r"[^.\[\]]+", full_key):
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return node
    return node


SHARDABLE = ("sgd", "momentum", "nesterov", "adam", "adamw")
"""Optimizers that treat each number of a weight by itself, as torch's kernels for weights in parts do."""


def _check_sharding(config: Config, origin: Origin) -> None:
    """Raise ``ConfigError`` for what wants weights whole, where they are in parts."""
    here = f"trainer.sharding=fsdp (set {origin.of('trainer.sharding')})"
    if config.trainer.devices == 1:
        raise ConfigError(
            f"{here} spreads a network over several devices, and trainer.devices is 1. Raise that, or leave it away."
        )
    obstacles = {
        f"optimizer={config.optimizer_name}": config.optimizer_name not in SHARDABLE,
        f"wrapper={config.wrapper.name}": config.wrapper.name != "none",
        f"averaging={config.averaging.name}": config.averaging.name != "none",
        f"trainer.probe_every={config.trainer.probe_every}": config.trainer.probe_every is not None,
    }
    if found := [name for name, there in obstacles.items() if there]:
        raise ConfigError(
            f"{here} goes with the optimizers {', '.join(SHARDABLE)} and without wrapper, averaging and trainer.probe_every, and "
            f"not with {', '.join(found)}. Choose among those, or trainer.sharding=ddp."
        )


def _check_together(config: Config, origin: Origin) -> None:
    """What no choice can know alone: files that must be there, images that a model takes, lengths that fit the run."""
    if not origin.elsewhere:
        config.trainer.check()
    config.model.check(config.spec)
    if config.trainer.views != "plain" and config.spec.planar:
        raise ConfigError(
            f"trainer.views={config.trainer.views} mirrors images, and data={config.spec.name} has points "
            f"(set {origin.of('trainer.views')}). Choose trainer.views=plain."
        )
    config.param_groups.check(config.optimizer)
    if isinstance(config.optimizer, ScheduleFree):
        config.optimizer.check(config.schedule.name, config.wrapper.name, config.averaging.name)
    if isinstance(config.optimizer, Timm):
        config.optimizer.check()
    _check_augmentations(config, origin)
    for axis, choice in (("schedule", config.schedule), ("averaging", config.averaging)):
        try:
            choice.check(config.horizon)
        except FieldError as error:
            key = f"{axis}.{error.field}"
            raise ConfigError(f"{key} {error.message} (set {origin.of(key)}).") from error
    if config.trainer.accumulate > config.batch_examples:
        raise ConfigError(
            f"trainer.accumulate={config.trainer.accumulate} cuts a batch of {config.batch_examples} images into more parts "
            f"than it has (set {origin.of('trainer.accumulate')}). Choose a smaller one, or a larger data.batch_size."
        )
    smallest = config.spec.train_examples % config.batch_examples or config.batch_examples
    if config.horizon.total_steps < config.horizon.steps_per_epoch:
        smallest = config.batch_examples
    if config.trainer.devices > 1 and smallest < config.trainer.devices * config.trainer.accumulate:
        raise ConfigError(
            f"trainer.devices={config.trainer.devices} (set {origin.of('trainer.devices')}): the smallest batch of an epoch has "
            f"{smallest} images, and each device needs one"
            + (
                f" for each of trainer.accumulate={config.trainer.accumulate} parts"
                if config.trainer.accumulate > 1
                else ""
            )
            + ". Choose another data.batch_size, or fewer devices."
        )
    if config.trainer.sharding == "fsdp":
        _check_sharding(config, origin)
    there = Path(config.output_dir).expanduser().absolute()
    try:
        while not there.exists():
            there = there.parent
    except OSError as error:
        raise ConfigError(f"output_dir cannot be used ({error.strerror}) (set {origin.of('output_dir')}).") from error
    if not there.is_dir():
        raise ConfigError(
            f"output_dir={config.output_dir}: {there} is a file, and runs need a folder to make theirs in."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"output_dir={config.output_dir}: this user may not write to {there}. Name another output_dir."
        )


def _check_augmentations(config: Config, origin: Origin) -> None:
    for place, augmentation in enumerate(config.augment, start=1):
        path = f"{LISTED}.{augmentation.name}"
        try:
            augmentation.check(config.spec)
        except FieldError as error:
            key = f"{path}.{error.field}"
            raise ConfigError(f"{key} {error.message} (set {origin.of(key)}).") from error
        names = [entry.name for entry in config.augment]
        if augmentation.mixes and place < len(names):
            rest = [entry.name for entry in config.augment[place:]]
            others = [entry.name for entry in config.augment if not entry.mixes]
            raise ConfigError(
                f"augment=[{','.join(names)}]: {augmentation.name} mixes images with their labels, and "
                f"{' and '.join(rest)} cannot follow it. "
                f"Write augment=[{','.join([*others, augmentation.name])}]."
            )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
