"""What a command with ``resume=RUN`` goes on with: the run, its configuration, and then its checkpoint and journal."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gradlab.config import Config, Origin, build_config
from gradlab.errors import CheckpointError, ConfigError
from gradlab.resume import settings
from gradlab.resume.which import find_folder, of_a_sweep, recorded, result_of, single_runs
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.holding import unshipped
from gradlab.tracking.retaking import begun, cut, line_end

if TYPE_CHECKING:
    from gradlab.checkpoints import Checkpoint

DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Resumption:
    """A run that is gone on with, or that another one starts from.

    folder: of the run.
    fork: a run of its own starts from its last checkpoint.
    before, after: the configuration as it was, and as it is now.
    changed: what differs between them, of what is part of the result.
    status: in the run's result; None without one.
    """

    folder: RunFolder
    fork: bool
    before: Config
    after: Config
    changed: settings.Changed = field(default_factory=dict)
    status: str | None = None

    @property
    def longer(self) -> bool:
        return self.after.horizon.total_steps > self.before.horizon.total_steps

    @property
    def over(self) -> str | None:
        """Why there is nothing to do, as a line; or None."""
        if self.fork or self.status != "finished" or self.longer:
            return None
        return (
            f"{self.folder.path} has finished already, after {self.before.horizon.total_steps:,} steps: there is nothing to "
            "resume. To train it for longer, raise trainer.max_epochs (or max_steps)."
        )

    @property
    def anew(self) -> set[str]:
        """What a fork starts anew, because it is of another kind than the run's; see ``Learner.start_from``."""
        before, after = self.before, self.after
        kinds = {
            "optimizer": (before.optimizer_name, before.param_groups) != (after.optimizer_name, after.param_groups),
            "wrapper": before.wrapper != after.wrapper,
            "averaging": (before.averaging, before.optimizer_name) != (after.averaging, after.optimizer_name),
            "plateau": before.schedule != after.schedule,
            "random": before.seed != after.seed,
        }
        return {part for part, differs in kinds.items() if differs}


def resumption(composed: DictConfig, text: str, origin: Origin) -> Resumption | None:
    """What ``resume=text`` asks for; None where ``auto`` finds no run and a new one shall begin.

    Raises:
        ConfigError: there is no such run, it cannot be gone on with, or not with these overrides.
    """
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    fork = plain.get("fork", False)
    if not isinstance(fork, bool):
        raise ConfigError(f"fork must be true or false (set {origin.of('fork')}).")
    output_dir = Path(str(plain.get("output_dir", "outputs"))).expanduser()
    if text == "auto":
        if fork:
            raise ConfigError(
                "resume=auto goes on with an unfinished run of the same configuration; fork=true needs one named."
            )
        return _unfinished(composed, output_dir, origin)
    tracking = plain.get("tracking")
    uri = tracking.get("uri") if isinstance(tracking, Mapping) else None
    folder = find_folder(text, output_dir, uri if isinstance(uri, str) else None)
    if "output_dir" in {override.split("=")[0] for override in origin.overrides} and not fork:
        plain["output_dir"] = recorded(folder).get("output_dir")  # it said where to look
    return _checked(folder, fork, build_config(recorded(folder)), _overridden(folder, plain, origin))


def _overridden(folder: RunFolder, composed: Mapping[str, Any], origin: Origin) -> Config:
    return build_config(settings.with_overrides(recorded(folder), composed, origin.overrides), origin)


def _checked(folder: RunFolder, fork: bool, before: Config, after: Config) -> Resumption:
    result = result_of(folder)
    status = result.get("status")
    changed = settings.changes(before, after)
    of_result = settings.result_changing(before, after, changed)
    where = folder.path
    if of_result and not fork:
        raise ConfigError(
            f"resume: {settings.told(of_result)} would change the result of {where}. Add fork=true to start a run of its own "
            "from its last checkpoint, or leave that away to go on with it as it is."
        )
    if not fork and status == "diverged":
        at = (result.get("diverged") or {}).get("step", "an unknown step")
        raise ConfigError(
            f"resume: the run in {where} has diverged at step {at}, and would again. With fork=true and, for instance, a "
            "smaller optimizer.lr a run of its own starts from its last checkpoint before that."
        )
    if not fork and of_a_sweep(folder):
        raise ConfigError(
            f"resume: the run in {where} belongs to a sweep. Its own command with -m and resume=true runs what is missing in "
            "it; fork=true starts a run of its own from this one."
        )
    return Resumption(folder, fork, before, after, changed, status)


def _unfinished(composed: DictConfig, output_dir: Path, origin: Origin) -> Resumption | None:
    """The last run of the same configuration that has not come to its end."""
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    after = build_config({key: value for key, value in plain.items() if key not in ("resume", "fork")}, origin)
    for folder in single_runs(output_dir):
        if result_of(folder).get("status") in DONE or of_a_sweep(folder):
            continue
        with contextlib.suppress(ConfigError):  # a run that cannot be read
            told = recorded(folder)
            if (told.get("imports") or []) != (plain.get("imports") or []):
                continue  # another run; to find that out, the modules that it names are not imported
            before = build_config(told)
            if not settings.changes(before, after):
                return _checked(folder, False, before, after)
    return None


@dataclass(frozen=True)
class Begun:
    """A run that has been opened to be gone on with.

    checkpoint: to go on from; None from the start.
    identity: of the run in its journal; None where it had not begun its own.
    """

    checkpoint: "Checkpoint | None"
    identity: str | None


def open_run(resumed: Resumption, say: Callable[[str], None]) -> Begun:
    """Read the checkpoint, and bring the run's folder to where it was when that was written. The run's lock is held.

    Raises:
        CheckpointError: no checkpoint is whole.
        GradlabError: somebody else has its journal.
    """
    from gradlab.checkpoints import clear_temporary

    folder = resumed.folder
    folder.journal.touch(0o600)
    with unshipped(folder, say):
        checkpoint = _checkpoint(resumed, say)
        clear_temporary(folder.checkpoints)
        first = begun(folder.journal)
        _cut_back(resumed, checkpoint, first[1] if first else 0, say)
        if resumed.status == "finished":  # a longer training: what it was is kept
            folder.result.replace(folder.path / f"result_of_{resumed.before.horizon.total_steps}_steps.json")
        else:
            folder.result.unlink(missing_ok=True)
    return Begun(checkpoint, first[0]["id"] if first else None)


def read_for_fork(resumed: Resumption, say: Callable[[str], None]) -> Begun:
    """Read the checkpoint that another run starts from, leaving the run as it is.

    Raises:
        ConfigError: it has none.
        CheckpointError: none is whole.
    """
    checkpoint = _checkpoint(resumed, say)
    if checkpoint is None:
        raise ConfigError(f"fork: the run in {resumed.folder.path} has no checkpoint to start from.")
    if checkpoint.step >= resumed.after.horizon.total_steps:
        raise ConfigError(
            f"fork: the checkpoint of {resumed.folder.path} is of step {checkpoint.step:,}, and the run would have "
            f"{resumed.after.horizon.total_steps:,} steps. Raise trainer.max_epochs (or max_steps)."
        )
    first = begun(resumed.folder.journal)
    return Begun(checkpoint, first[0]["id"] if first else None)


def _checkpoint(resumed: Resumption, say: Callable[[str], None]) -> "Checkpoint | None":
    from gradlab.checkpoints import newest_checkpoint

    try:
        checkpoint = newest_checkpoint(resumed.folder.checkpoints)
        if checkpoint is not None:
            checkpoint.check()
    except CheckpointError as error:
        raise CheckpointError(f"{error} The run cannot be gone on with: start it anew, without resume.") from error
    if checkpoint is not None and checkpoint.remark:
        say(checkpoint.remark)
    return checkpoint


def _cut_back(resumed: Resumption, checkpoint: "Checkpoint | None", start: int, say: Callable[[str], None]) -> None:
    """Take back the rows of steps that will be made again."""
    if resumed.status == "finished":
        return
    journal = resumed.folder.journal
    known = start if checkpoint is None else max(start, int(checkpoint.state["journal_bytes"]))
    end = line_end(journal, known)
    if end < known:
        say(f"{journal} has {end:,} bytes, and had {known:,} at the checkpoint: rows before it are lost.")
    cut(resumed.folder, end)


def tags_of(resumed: Resumption, step: int) -> dict[str, str]:
    """What a journal says of going on at ``step``."""
    tags = {"gradlab.status": "running", "gradlab.resumed_at_step": str(step)}
    if resumed.before.name != resumed.after.name:
        tags["mlflow.runName"] = resumed.after.name
    return tags | {f"gradlab.changed.{key}": f"{old} → {new}" for key, (old, new) in resumed.changed.items()}
