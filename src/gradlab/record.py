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
from gradlab.errors import ConfigError
from gradlab.interruption import Interruption
from gradlab.settings import MLflow
from gradlab.tracking.ending import end_gone_runs
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal, encode
from gradlab.tracking.shipper import Shipper

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from gradlab.data.datasets import Dataset
    from gradlab.data.datasets.base import Splits
    from gradlab.finder.before import Chosen
    from gradlab.learner import Learner


@dataclass(frozen=True)
class Place:
    """The place of a run in a sweep, whose process makes its folder, ships its journal and tells how it gets on.

    folder: of the run, made and empty.
    parent: the id of the sweep's record.
    point: the hash of the run's configuration.
    interruption: how the sweep ends the run.
    load: gives the images of a dataset, perhaps of the run before.
    report: told of the training's progress.
    """

    folder: RunFolder
    parent: str
    point: str
    interruption: Interruption
    load: "Callable[[Dataset], Splits]"
    report: "pl.Callback"


class RunRecord:
    """The record of one run. From its beginning on, a process beside this one imports MLflow and opens its store.

    Args:
        config: of the run.
        command: the command line.
        place: in a sweep, which ships the journal itself; or None.
        chosen: how ``find_lr=true`` came to the learning rate; or None.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(
        self, config: Config, command: list[str], place: Place | None = None, chosen: "Chosen | None" = None
    ) -> None:
        self.config = config
        self.point = place.point if place else None
        try:
            self.folder = place.folder if place else RunFolder.create(Path(config.output_dir).expanduser(), config.name)
        except OSError as error:
            raise ConfigError(f"output_dir={config.output_dir} cannot hold a run's folder: {error}.") from error
        self.folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create(config.composed)))
        self.journal = Journal(self.folder.journal)
        self.known: dict[str, Any] = {}
        self.result: dict[str, Any] = {}
        self._open(command, place)
        self.chosen = chosen
        if chosen:
            chosen.record(self.folder, self.journal)
        self.shipper = (
            Shipper(self.folder, config.tracking) if isinstance(config.tracking, MLflow) and not place else None
        )
        if self.shipper is None and place is None:
            end_gone_runs(self.folder.path.parent)  # else the shipper does it

    def _open(self, command: list[str], place: Place | None) -> None:
        """The journal's first lines: who this run is, and its configuration."""
        config = self.config
        tags = {"gradlab.seed": str(config.seed), **about_process(self.folder, command)}
        experiment = config.tracking.experiment if isinstance(config.tracking, MLflow) else "gradlab"
        identity = f"{self.folder.path.name}.{secrets.token_hex(4)}"
        sweep = {"parent": place.parent, "point": place.point} if place else {}
        params = flat(config.composed)
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
        self.journal.metrics(learner.ledger.steps_done, metrics)
        self.result = _result(self.config, status, metrics, learner) | self.known
        self.result |= {"point": self.point} if self.point else {}
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
        self.journal.write("tags", tags=tags)
        self.journal.write("end", status="KILLED" if status == "killed" else "FINISHED")
        self.journal.close()

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
