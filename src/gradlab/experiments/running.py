"""Runs an experiment's commands: ``python train.py`` as a user would type it, one process after the other."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradlab.analysis.sources import Source, read_sweep
from gradlab.config import override_key
from gradlab.entry import CONFIGS
from gradlab.errors import ConfigError, GradlabError
from gradlab.experiments.experiment import PICTURES, Form, Ran
from gradlab.tracking.folder import write_atomically

REPOSITORY = CONFIGS.parent
TRAIN = REPOSITORY / "train.py"
CALLS = "calls.json"
"""In a sweep's folder: how long each call took that made runs of it, in seconds."""
CHOSEN = ("optimizer.lr", "schedule", "seed")
"""What commands that follow from others have chosen, in any size."""


@dataclass(frozen=True)
class How:
    """How a form's commands are run.

    pictures: the user's folder or archive.
    quick, full: the small and the large size; neither is the recorded one.
    seeds: the first seed, in place of the recorded ones.
    more: overrides for every command.
    """

    pictures: str | None = None
    quick: bool = False
    full: bool = False
    seeds: int | None = None
    more: Sequence[str] = ()


def commands_of(form: Form, how: How, following: Sequence[Sequence[str]] | None = None) -> list[list[str]]:
    """The overrides of each of the form's commands, or of those ``following`` them; of two for one key the later counts."""
    size = form.quick if how.quick else (form.full or ()) if how.full else ()
    if following is None:
        commands = [
            merged([*command, *size]) for command in form.commands[: form.quick_commands if how.quick else None]
        ]
    else:
        size = [word for word in size if override_key(word) not in CHOSEN]
        commands = [merged([*command, *size]) for command in following]
    commands = [merged([*command, *how.more]) for command in commands]
    if how.seeds is not None:
        commands = [_from_seed(command, how.seeds) for command in commands]
    return [[word.replace(PICTURES, how.pictures or "") for word in command] for command in commands]


def _from_seed(command: list[str], first: int) -> list[str]:
    """The command with its seeds moved on by ``first``. Of one whose configuration has the seeds: three."""
    given = next((word for word in command if override_key(word) == "seed"), "seed=range(3)")
    value = given.partition("=")[2]
    if value.startswith("range("):
        ends = [int(part) for part in value.removeprefix("range(").rstrip(")").split(",")]
        low, high = (0, *ends) if len(ends) == 1 else ends
        seeds = [*range(low, high)]
    else:
        seeds = [int(part) for part in value.split(",")]
    moved = f"seed=range({first + seeds[0]},{first + seeds[0] + len(seeds)})"
    return [*(word for word in command if word != given), moved]


def merged(overrides: Sequence[str]) -> list[str]:
    """``overrides`` with the last one of each key, in the place of the first."""
    by_key: dict[str, str] = {}
    for override in overrides:
        by_key[override_key(override)] = override
    return list(by_key.values())


def run_form(form: Form, how: How, output_dir: Path, resume: bool) -> tuple[Ran, list[list[str]]]:
    """Run the form's commands, and then those that follow from what came out; returns the runs and all commands.

    Raises: see ``run_sweeps``.
    """
    commands = commands_of(form, how)
    ran = Ran(form, run_sweeps(commands, output_dir, resume))
    if form.refine is not None and not how.quick:
        refining = commands_of(form, how, form.refine(ran))
        ran = replace(ran, refined=run_sweeps(refining, output_dir, resume))
        commands += refining
    if form.follow is not None:
        following = commands_of(form, how, form.follow(ran))
        ran = replace(ran, followed=run_sweeps(following, output_dir, resume))
        commands += following
    return ran, commands


def run_sweeps(commands: Sequence[Sequence[str]], output_dir: Path, resume: bool) -> list[Source]:
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
        before, began, wall = _sweeps(output_dir), time.monotonic(), time.time_ns()
        status = subprocess.run([sys.executable, str(TRAIN), *words]).returncode
        written = [path for path, changed in _sweeps(output_dir).items() if before.get(path) != changed]
        for sweep in written:
            _note_call(sweep, time.monotonic() - began, wall)
        if status == 2:
            raise ConfigError("the command above was refused; its message says why.")
        if status != 0:
            raise GradlabError(f"the command above ended with exit status {status}.")
        if len(written) != 1:
            raise GradlabError(f"the command above left {len(written)} sweeps in {output_dir}, where one was expected.")
        sources.append(read_sweep(written[0]))
    return sources


def _note_call(sweep: Path, seconds: float, since: int) -> None:
    """Keep how long a call took that made runs; of a resumed sweep that had them all there is nothing to keep."""
    if any(journal.stat().st_mtime_ns >= since for journal in sweep.glob("runs/*/journal.jsonl")):
        write_atomically(sweep / CALLS, json.dumps([*_calls(sweep), round(seconds, 1)]) + "\n")


def _calls(sweep: Path) -> list[float]:
    try:
        return [float(seconds) for seconds in json.loads((sweep / CALLS).read_text())]
    except FileNotFoundError:
        return []


def wall_seconds(source: Source) -> float:
    """How long the calls took that made a sweep's runs, from the start of a process to its end."""
    return sum(_calls(next(run.sweep for run in source.runs if run.sweep)))


def _sweeps(output_dir: Path) -> dict[Path, int]:
    """The sweeps in a folder, with the time of their last change: a resumed one is written anew."""
    return {path.parent: path.stat().st_mtime_ns for path in output_dir.glob("*_sweep_*/sweep.json")}
