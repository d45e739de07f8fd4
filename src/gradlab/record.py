"""What is written of one run while it happens: its folder, its journal, its result, and how it ended."""

import contextlib
import json
import secrets
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from gradlab import environment
from gradlab.config import Config
from gradlab.errors import ConfigError, GradlabError
from gradlab.interruption import Interruption
from gradlab.resume.beginning import Begun, Resumption, open_run, read_for_fork, tags_of
from gradlab.resume.fingerprint import Fingerprint, difference
from gradlab.resume.settings import stretched
from gradlab.settings import MLflow, cores
from gradlab.tracking.ending import end_gone_runs
from gradlab.tracking.folder import RunFolder, write_atomically
from gradlab.tracking.holding import Held
from gradlab.tracking.journal import Journal, encode
from gradlab.tracking.retaking import RetakenRows
from gradlab.tracking.shipper import Shipper
from gradlab.tracking.views import logarithms

if TYPE_CHECKING:
    from gradlab.data.datasets import Dataset
    from gradlab.data.datasets.base import Splits
    from gradlab.finder.before import Chosen
    from gradlab.learner import Learner
    from gradlab.lightning import pl


@dataclass(frozen=True)
class Place:
    """The place of a run in a sweep, whose process makes its folder, ships its journal and tells how it gets on.

    folder: of the run, made and empty.
    parent: the id of the sweep's record.
    point: the hash of the run's configuration.
    interruption: how the sweep ends the run.
    load: gives the images of a dataset, perhaps of the run before.
    report: told of the training's progress.
    together: the points that are trained at once with the run, its own included; empty for a run alone.
    plan: how many runs are trained at once, and how that was chosen, in words; or None.
    steps: ``eager`` or ``compiled``, where its sweep has chosen that; or None.
    settled: told what the run came to where others are trained on without it; or None.
    """

    folder: RunFolder
    parent: str
    point: str
    interruption: Interruption
    load: "Callable[[Dataset], Splits]"
    report: "pl.Callback"
    together: tuple[str, ...] = ()
    settled: "Callable[[Any], None] | None" = None
    plan: str | None = None
    steps: str | None = None


class RunRecord:
    """The record of one run. From its beginning on, a process beside this one imports MLflow and opens its store.

    Args:
        config: of the run.
        command: the command line.
        place: in a sweep, which ships the journal itself; or None.
        resumed: the run that this one goes on with, or starts from.
        chosen: how ``find_lr=true`` came to the learning rate; or None.

    Raises:
        ConfigError: the folder cannot be made, or the run to go on with is still running.
        CheckpointError: its checkpoints are damaged.
    """

    def __init__(
        self,
        config: Config,
        command: list[str],
        place: Place | None = None,
        resumed: Resumption | None = None,
        chosen: "Chosen | None" = None,
    ) -> None:
        self.config = config
        self.point = place.point if place else None
        self.plan, self._steps = (place.plan, place.steps) if place else (None, None)
        self.resumed = resumed
        self.lines: list[str] = []
        """What a person is told as the run begins."""
        self.known: dict[str, Any] = {}
        self.over = False
        """Whether its end has been written."""
        self.result: dict[str, Any] = {}
        begun = Begun(None, None)
        self.retaken: RetakenRows | None = None
        if resumed is not None and not resumed.fork:
            self.folder = resumed.folder
            self.held = Held(self.folder)
            try:
                begun = open_run(resumed, self._say)
            except BaseException:
                self.held.release()
                raise
            self.retaken = RetakenRows(self.folder)
        else:
            if resumed is not None:
                begun = read_for_fork(resumed, self._say)
            try:
                self.folder = (
                    place.folder if place else RunFolder.create(Path(config.output_dir).expanduser(), config.name)
                )
            except OSError as error:
                raise ConfigError(f"output_dir={config.output_dir} cannot hold a run's folder: {error}.") from error
            self.held = Held(self.folder)
        self.checkpoint = begun.checkpoint
        write_atomically(self.folder.config, OmegaConf.to_yaml(OmegaConf.create(config.composed)))
        self.journal = Journal(self.folder.journal, self.retaken)
        if resumed is not None and not resumed.fork and begun.identity is not None:
            self._reopen(resumed)
        else:
            self._open(command, place, begun.identity)
        self.chosen = chosen
        if chosen:
            chosen.record(self.folder, self.journal)
        self.shipper = (
            Shipper(self.folder, config.tracking) if isinstance(config.tracking, MLflow) and not place else None
        )
        if self.shipper is None and place is None:
            end_gone_runs(self.folder.path.parent)  # else the shipper does it

    @property
    def first_step(self) -> int:
        """Optimizer steps that were made before this process."""
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def validates_first(self) -> bool:
        """Whether the checkpoint was written where a validation was due, and not done."""
        if self.checkpoint is None or (self.resumed and self.resumed.fork):
            return False
        step, horizon = self.first_step, self.config.horizon
        due = step % self.config.trainer.steps("validate_every", horizon) == 0 or step == horizon.total_steps
        ledger = self.checkpoint.state.get("ledger", {})
        return step > 0 and due and ledger.get("validated_at") != step

    @property
    def threads(self) -> int | None:
        """torch's threads in the process that wrote the checkpoint, where this one can have as many and is told nothing else."""
        if self.checkpoint is None or self.config.trainer.threads is not None:
            return None
        threads = self.checkpoint.state.get("fingerprint", {}).get("threads")
        return threads if isinstance(threads, int) and 1 <= threads <= cores() else None

    @property
    def kept_speed(self) -> str | None:
        """Which steps the process took that wrote the checkpoint, ``eager``, ``captured`` or ``compiled``; else what the sweep has chosen, if it has."""
        if self.checkpoint is None or (self.resumed and self.resumed.fork):
            return self._steps
        return self.checkpoint.state.get("speed")

    def say(self, fingerprint: Fingerprint, data_sha256: str) -> list[str]:
        """Lines that tell from where the training goes on, and on what.

        Raises:
            GradlabError: the images are others than those the run was trained with.
        """
        if self.resumed is None:
            return []
        if self.checkpoint is None:
            return [*self.lines, f"{self.folder.path} has no checkpoint yet: it is trained from its start"]
        told = self.checkpoint.state.get("data_sha256")
        if told != data_sha256 and not self.resumed.fork:
            raise GradlabError(
                f"the images are not those that the run in {self.folder.path} was trained with (SHA-256 {data_sha256[:12]}…, "
                f"then {str(told)[:12]}…). Put those back, or start a run of its own with fork=true."
            )
        verb = f"starts from {self.resumed.folder.path}" if self.resumed.fork else f"goes on with {self.folder.path}"
        lines = [f"{verb} at step {self.first_step:,}"]
        if self.resumed.fork and self.resumed.anew:
            lines.append(f"begun anew, being of another kind there: {', '.join(sorted(self.resumed.anew))}")
        stretch = stretched(self.resumed.before, self.resumed.after, self.first_step)
        other = difference(self.checkpoint.state.get("fingerprint", {}), fingerprint)
        return [*self.lines, *lines, *filter(None, (stretch, other))]

    def _say(self, line: str) -> None:
        self.lines.append(line)

    def _reopen(self, resumed: Resumption) -> None:
        """The journal's line that the run runs again, and what is other than before."""
        changed = {key: list(values) for key, values in resumed.changed.items()}
        self.journal.write("resumed", step=self.first_step, changed=changed)
        self.journal.write("tags", tags=tags_of(resumed, self.first_step))
        self.journal.artifact(self.folder.config)

    def _open(self, command: list[str], place: Place | None, parent: str | None) -> None:
        """The journal's first lines: who this run is, and its configuration."""
        config = self.config
        tags = {"gradlab.seed": str(config.seed), **about_process(self.folder, command)}
        experiment = config.tracking.experiment if isinstance(config.tracking, MLflow) else "gradlab"
        identity = f"{self.folder.path.name}.{secrets.token_hex(4)}"
        sweep: dict[str, Any] = {"parent": place.parent, "point": place.point} if place else {}
        sweep |= {"together": list(place.together)} if place and place.together else {}
        if self.resumed is not None and self.resumed.fork:
            tags |= {
                "gradlab.forked_from": str(self.resumed.folder.path),
                "gradlab.forked_at_step": str(self.first_step),
            }
            sweep = {"parent": parent} if parent else {}
        params = flat(config.composed)
        params |= logarithms(params)
        self.journal.write(
            "run", id=identity, name=config.name, experiment=experiment, params=params, tags=tags, **sweep
        )
        self.journal.artifact(self.folder.config)

    def know(self, **facts: Any) -> None:
        """Facts of this run that its result tells, and its tags."""
        self.known |= facts
        self.journal.write("tags", tags={f"gradlab.{key}": str(value) for key, value in facts.items()})

    def conclude(
        self, learner: "Learner", status: str, metrics: dict[str, float], seconds: dict[str, float], reason: str | None
    ) -> None:
        """Write the result: on disk before anything that is only there to be looked at. ``reason``: why it was pruned."""
        if status != "killed":  # one that is gone on with has another summary at its end
            self.journal.metrics(learner.ledger.steps_done, metrics)
        self.result = _result(self.config, status, metrics, learner) | self.known
        self.result |= {"point": self.point} if self.point else {}
        if self.resumed is not None and self.resumed.fork:
            self.result["forked_from"] = {"folder": str(self.resumed.folder.path), "step": self.first_step}
        self.result |= {"reason": reason} if reason else {}
        self.result |= {"find_lr": self.chosen.told} if self.chosen else {}
        self.result["seconds"] = seconds
        self.folder.write_result(self.result)

    def close(self, learner: "Learner") -> None:
        """The run has ended as its result says."""
        status, divergence = self.result["status"], learner.ledger.divergence
        tags = {"gradlab.status": status}
        if divergence:
            tags |= {
                "gradlab.diverged_at_step": str(divergence.step),
                "gradlab.diverged_at_lr": f"{divergence.lr:.6g}",
            }
        if status == "pruned":
            tags |= {"gradlab.pruned_at_step": str(learner.ledger.steps_done), "gradlab.reason": self.result["reason"]}
        if self.retaken is not None and self.retaken.differs is not None:
            tags["gradlab.retaken"] = (
                f"from step {self.retaken.differs} on, steps that were made twice came out otherwise the second time; of two "
                "values for one of them the later one counts"
            )
        self.journal.write("tags", tags=tags)
        self.journal.write("end", status="KILLED" if status == "killed" else "FINISHED")
        self.journal.close()
        self.over = True
        if status != "killed":
            self.folder.cut_rows.unlink(missing_ok=True)
        self.held.release()

    def end_early(self, status: str, reason: str) -> None:
        """The run ends here, failed or killed.

        Each file is written whether or not the others can be: a full disk must not leave a run RUNNING in MLflow. A run that
        has its result already (a failure while drawing its figures) keeps it.
        """
        with contextlib.suppress(OSError):
            if self.folder.result.exists():
                status = json.loads(self.folder.result.read_text())["status"]
            else:
                self.folder.write_result({"status": status, "reason": reason, "versions": environment.versions()})
        with contextlib.suppress(OSError):
            self.journal.write("tags", tags={"gradlab.status": status, "gradlab.reason": reason[:5000]})
            self.journal.write("end", status={"killed": "KILLED", "failed": "FAILED"}.get(status, "FINISHED"))
        with contextlib.suppress(OSError):
            self.journal.close()
        if self.shipper is not None:
            self.shipper.finish()
        self.held.release()


def about_process(folder: RunFolder, command: list[str]) -> dict[str, str]:
    """Tags of a run, or of a sweep, that say by whom, where, and with which versions it was made."""
    tags = {
        "gradlab.status": "running",
        "gradlab.command": shlex.join(command),
        "gradlab.folder": str(folder.path),
        "gradlab.processor": environment.processor(),
        "gradlab.host": socket.gethostname(),
        "mlflow.user": environment.user(),
        "mlflow.source.name": Path(command[0]).name,
        "mlflow.source.type": "LOCAL",
    }
    tags |= {f"gradlab.version.{package}": version for package, version in environment.versions().items()}
    for key, value in environment.source().items():
        tags[f"gradlab.git.{key}"] = value
        if key == "commit":
            tags["mlflow.source.git.commit"] = value
    return tags


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """``{"optimizer": {"lr": 0.1}}`` as ``{"optimizer.lr": 0.1}``; lists stay whole, written as JSON."""
    if not isinstance(node, dict):
        if isinstance(node, float):
            return {path: encode(node)}  # trainer.clip_norm=inf
        return {path: json.dumps(node) if isinstance(node, list) else "null" if node is None else node}
    leaves: dict[str, Any] = {}
    for key, child in node.items():
        leaves |= flat(child, f"{path}.{key}" if path else str(key))
    return leaves


def _result(config: Config, status: str, metrics: dict[str, float], learner: "Learner") -> dict[str, Any]:
    from gradlab.checkpoints import parameters_sha256
    from gradlab.models.size import parameter_count

    divergence = learner.ledger.divergence
    return {
        "status": status,
        "name": config.name,
        "metrics": metrics,
        "steps": learner.ledger.steps_done,
        "total_steps": learner.horizon.total_steps,
        "diverged": vars(divergence) if divergence else None,
        "seed": config.seed,
        "parameters": parameter_count(learner.model),
        # A diverged run's weights are those of wherever its chunk ended, and no two runs' chunks are alike.
        "parameters_sha256": None if divergence else parameters_sha256(learner.model),
        "versions": environment.versions(),
        "source": environment.source(),
    }
