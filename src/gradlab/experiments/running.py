"""Runs an experiment's commands: ``python train.py`` as a user would type it, one process after the other."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gradlab.analysis.sources import Source, read_sweep
from gradlab.config import override_key
from gradlab.entry import CONFIGS
from gradlab.errors import ConfigError, GradlabError
from gradlab.experiments.experiment import PICTURES, Form, Ran

REPOSITORY = CONFIGS.parent
TRAIN = REPOSITORY / "train.py"


def commands_of(form: Form, pictures: str | None, quick: bool, more: Sequence[str]) -> list[list[str]]:
    """The overrides of each command; of two for one key the later, where ``more`` come last."""
    commands = list(form.commands)[: form.quick_commands if quick else None]
    return [
        [word.replace(PICTURES, pictures or "") for word in merged([*command, *(form.quick if quick else ()), *more])]
        for command in commands
    ]


def merged(overrides: Sequence[str]) -> list[str]:
    """``overrides`` with the last one of each key, in the place of the first."""
    by_key: dict[str, str] = {}
    for override in overrides:
        by_key[override_key(override)] = override
    return list(by_key.values())


def run_sweeps(form: Form, commands: Sequence[Sequence[str]], output_dir: Path, resume: bool) -> Ran:
    """Run every command as a sweep into ``output_dir`` and read what it made.

    Raises:
        ConfigError: a command was refused; its own message stands on standard error.
        GradlabError: a command failed, or there is no source tree to run it from.
    """
    if not TRAIN.is_file():
        raise GradlabError(f"There is no {TRAIN}: experiments are run from gradlab's source tree.")
    sources: list[Source] = []
    for overrides in commands:
        words = ["-m", *overrides, f"output_dir={output_dir}", *(["resume=true"] if resume else [])]
        print(f"\n$ python train.py {' '.join(words)}", flush=True)
        before = _sweeps(output_dir)
        status = subprocess.run([sys.executable, str(TRAIN), *words]).returncode
        if status == 2:
            raise ConfigError("the command above was refused; its message says why.")
        if status != 0:
            raise GradlabError(f"the command above ended with exit status {status}.")
        written = [path for path, changed in _sweeps(output_dir).items() if before.get(path) != changed]
        if len(written) != 1:
            raise GradlabError(f"the command above left {len(written)} sweeps in {output_dir}, where one was expected.")
        sources.append(read_sweep(written[0]))
    return Ran(form, sources)


def _sweeps(output_dir: Path) -> dict[Path, int]:
    """The sweeps in a folder, with the time of their last change: a resumed one is written anew."""
    return {path.parent: path.stat().st_mtime_ns for path in output_dir.glob("*_sweep_*/sweep.json")}
