"""From the command line to a validated configuration, and from an outcome to an exit status.

Hydra composes; every way in which that can fail ends here as one short message. Exit status: 0 done; 1 a run failed;
2 the configuration is wrong; 130 ended by Ctrl-C; 143 ended by SIGTERM.
"""

import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradlab.config import AXES, LISTED, Config, Origin, build_config, override_key, refuse_repeated
from gradlab.disk import full
from gradlab.errors import ConfigError, GradlabError, did_you_mean
from gradlab.hydra_guard import only_configuration
from gradlab.hydra_shortcuts import without_detours
from gradlab.interruption import Interrupted
from gradlab.resume.beginning import Resumption, resumption
from gradlab.resume.which import with_its_choices
from gradlab.sweeps.current import Current
from gradlab.sweeps.grids import expand

OK, FAILED, WRONG_CONFIGURATION, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

_SOURCE_TREE = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = _SOURCE_TREE if _SOURCE_TREE.is_dir() else Path(__file__).resolve().parent / "configs"


def main() -> int:
    """Run ``python train.py``'s command line; returns the exit status.

    Raises:
        Exception: a mistake of ours, with its traceback; with HYDRA_FULL_ERROR=1 a user's, too.
    """
    if any(argument.startswith("--experimental-rerun") for argument in sys.argv[1:]):
        return _say_wrong("--experimental-rerun is refused: it loads a pickle, and a pickle can run any code.")
    status, began, process = OK, False, os.getpid()
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    sweep = Current(command, explain)

    def task(composed: DictConfig) -> float | None:
        nonlocal status, began
        began = True
        job_status, objective = _run_one(composed, command)
        if job_status and os.getpid() != process:  # a launcher's own process, which keeps its status to itself
            raise GradlabError("a run of the sweep failed; its message is above.")
        status = max(status, job_status)
        return objective

    # Hydra's own report of an error is a traceback or several lines and ends in exit status 1; ours comes below.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        # Hydra takes the last of two values for a key of a sweep without a word.
        refuse_repeated([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
        sys.argv[1:] = for_hydra(sys.argv[1:])
        # It also wants a folder for a sweep and for each of its jobs; ours are made by the runs themselves.
        shortcuts = without_detours(CONFIGS, [*AXES, "seed", "name", "output_dir", "plots", "find_lr"])
        with tempfile.TemporaryDirectory(prefix="gradlab-sweep-") as scratch:
            os.environ["GRADLAB_SWEEP_SCRATCH"] = scratch
            with sweep.found_by_the_launcher(), only_configuration(), shortcuts:
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(task)()
        status = max(status, sweep.finish())
    except KeyboardInterrupt as interrupt:
        sweep.finish("signal")
        return _status_of(interrupt)
    except BrokenPipeError:  # `python train.py --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        # A ValueError of a run is a mistake of ours; one before any run is Hydra's word for a mistake of the user's. So
        # is a TypeError: `augment=[3]`.
        ours = began and not isinstance(error, ConfigError | HydraException | OmegaConfBaseException)
        if wants_traceback or ours:
            raise
        sweep.finish("failure")  # where a later batch of points is wrong
        return _say_wrong(explain(error))
    except (GradlabError, OSError) as error:
        sweep.finish("failure")
        print(f"\ngradlab: the sweep failed. {error}", file=sys.stderr)
        return FAILED
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]
    return status


def for_hydra(arguments: list[str]) -> list[str]:
    """The command line as Hydra takes it: ``-m`` first, wherever it stands, and grids that its grammar lacks written out."""
    flags = [word for word in arguments if word in ("-m", "--multirun")]
    named = with_its_choices(arguments, list(AXES), LISTED)
    others = [word if word.startswith("-") else expand(word) for word in named if word not in flags]
    return [*flags[:1], *others]


def _run_one(composed: DictConfig, command: list[str]) -> tuple[int, float | None]:
    """One job of Hydra's: the exit status, and the best validation accuracy (for sweepers that want a number)."""
    chosen = HydraConfig.get()
    try:
        # As they were typed: resolving `seed=${nope}` here would raise before there is anyone to explain it.
        overrides = OmegaConf.to_container(chosen.overrides.task, resolve=False)
        assert isinstance(overrides, list)
        # `experiment=…` is composed into the rest and leaves no key of its own.
        choices = {axis: str(choice) for axis, choice in chosen.runtime.choices.items() if axis in AXES}
        origin = Origin([str(override) for override in overrides], choices)
        resumed = _resumption(composed, origin, chosen.mode)
        if resumed is not None and resumed.over:
            print(resumed.over)
            return OK, None
        config = build_config(composed, origin) if resumed is None else resumed.after
        from gradlab.run import run

        outcome = run(config, command, resumed=resumed)
    except ConfigError as error:
        return _say_wrong(str(error)), None
    except (GradlabError, OSError) as error:
        told = full(error, Path(getattr(error, "filename", None) or composed.get("output_dir") or ".")) or error
        print(f"\ngradlab: the run failed. {told}", file=sys.stderr)
        return FAILED, None
    if outcome.signum is None:
        return OK, outcome.best_val_accuracy
    if chosen.mode == RunMode.MULTIRUN:
        raise Interrupted(outcome.signum)  # ends the sweep too
    return _status_of(Interrupted(outcome.signum)), outcome.best_val_accuracy


def _resumption(composed: DictConfig, origin: Origin, mode: RunMode | None) -> Resumption | None:
    """The run that this command goes on with, or starts from; None for a new one.

    Raises:
        ConfigError: there is none, or it does not go with these overrides.
    """
    resume = composed.get("resume")
    if resume is True or (isinstance(resume, str) and mode == RunMode.MULTIRUN):
        raise ConfigError(
            f"resume=true goes on with a sweep, under -m and hydra/launcher=gradlab (set {origin.of('resume')}); "
            "resume=RUN goes on with one run, without -m: its folder, its MLflow run id, or latest."
        )
    found = None
    if isinstance(resume, str):
        found = resumption(composed, resume, origin)
        composed["resume"] = False  # where a new run begins, it is one like any other
    return found


def _status_of(interrupt: KeyboardInterrupt) -> int:
    return TERMINATED if getattr(interrupt, "signum", signal.SIGINT) == signal.SIGTERM else INTERRUPTED


def _say_wrong(message: str) -> int:
    print(f"gradlab: wrong configuration. {message}", file=sys.stderr)
    return WRONG_CONFIGURATION


def compose(overrides: list[str]) -> Config:
    """The configuration that ``python train.py`` would make of ``overrides``.

    Raises:
        ConfigError: it is wrong; the message is the one that ``train.py`` gives.
    """
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra.compose("config", overrides, return_hydra_config=True)
        choices = {axis: str(choice) for axis, choice in composed.hydra.runtime.choices.items() if axis in AXES}
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        raise ConfigError(explain(error)) from error
    return build_config(ours, Origin(overrides, choices))


def explain(error: Exception) -> str:
    """One short message for an error of Hydra's composition, with the nearest valid name where there is one."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        axis, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = sorted(AXES.get(axis, []) if error.options is None else error.options)  # None: one of a list
        return f"{axis}={choice}: there is no {axis} '{choice}'.{did_you_mean(choice, options)} Choices: {', '.join(options)}."
    if isinstance(error, OverrideParseException):
        return (
            f"'{error.override}' cannot be read as axis=choice or key=value ({str(error).splitlines()[0]}). Quote values "
            "with brackets or spaces for the shell ('model.hidden=[64,64]'), and within that anything unusual for Hydra "
            "('name=\"a=b, ü\"')."
        )
    if re.search(rf"^(Config group override must|argument of|can only concat)|'{LISTED}'", str(error)):
        return (
            f"{LISTED} is chosen by a name or a list of names, as in {LISTED}=flip, '{LISTED}=[crop,flip]' and {LISTED}=[], "
            f"not by '{_typed(LISTED)}'. Choices: {', '.join(sorted(AXES[LISTED]))}."
        )
    if "does not support sweep type" in str(error):
        return (
            "An interval has no end of values. Search in it with hydra/sweeper=gradlab_optuna, or write a grid, such as "
            "'optimizer.lr=logspace(1e-4,1,9)'."
        )
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match:
        return _unknown_key(match[1])
    match = re.search(r"Could not delete from config.*?'([^']+)'", str(error))
    if match:
        return f"~{match[1]} names nothing that could be deleted."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = f" {str(error.__cause__).splitlines()[0]}." if error.__cause__ else ""
    return f"{' '.join(lines)}{cause}"


def _unknown_key(key: str) -> str:
    """What to say of an override whose key the composed configuration does not have."""
    choices = [argument for argument in sys.argv[1:] if "=" in argument and override_key(argument) in AXES]
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra.compose("config", [choice for choice in choices if not _is_sweep(choice)])
    except (HydraException, OmegaConfBaseException, ValueError):
        return f"There is no key '{key}'."
    options = _keys(OmegaConf.to_container(composed))
    axis, _, rest = key.partition(".")
    part = composed.get(axis)
    if axis == LISTED and rest:
        name, _, rest = rest.partition(".")
        if name not in composed[axis]:
            chosen = [*map(str, composed[axis]), *([name] if name in AXES[axis] else [])]
            hint = (
                f" Choose it with {axis}=[{','.join(chosen)}]."
                if name in AXES[axis]
                else did_you_mean(name, AXES[axis])
            )
            return f"{axis}.{name} is not chosen (set on the command line: {_typed(key)}).{hint}"
        part = composed[axis][name]
    if rest and isinstance(part, DictConfig):
        own = [str(option) for option in part if option != "name"]
        name = part.get("name")
        hint = did_you_mean(rest, own) or f" It has {', '.join(own) or 'no numbers'}."
        return f"{axis}={name} has no key '{rest}' (set on the command line: {_typed(key)}).{hint}"
    return f"There is no key '{key}' (set on the command line: {_typed(key)}).{did_you_mean(key, options)}"


def _is_sweep(choice: str) -> bool:
    """Whether an override gives several values: a comma outside of brackets."""
    return "," in re.sub(r"\[[^\[\]]*\]", "", choice)


def _typed(key: str) -> str:
    return next((argument for argument in sys.argv[1:] if override_key(argument) == key), key)


def _keys(node: object, path: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    keys = []
    for key, child in node.items():
        here = f"{path}.{key}" if path else str(key)
        keys += [here, *_keys(child, here)]
    return keys
