"""One run, top to bottom: folder, data, model, training, test, figures, result."""

import concurrent.futures
import contextlib
import json
import secrets
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from gradlab import environment
from gradlab.config import Config
from gradlab.errors import ConfigError, DataError, GradlabError
from gradlab.interruption import Interrupted, Interruption
from gradlab.prepare import check_device_and_libraries, lightning_trainer, prepare
from gradlab.settings import MLflow
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal
from gradlab.tracking.shipper import Shipper

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import torch

    from gradlab.checkpoints import Checkpointer
    from gradlab.classifier import Classifier
    from gradlab.data.datasets import Dataset
    from gradlab.data.datasets.base import Splits


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``status`` is finished, diverged or killed, and ``signum`` the signal that killed it."""

    status: str
    folder: Path
    metrics: dict[str, float]
    signum: int | None

    @property
    def best_val_accuracy(self) -> float | None:
        return self.metrics.get("best/val_accuracy")


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


def run(config: Config, command: list[str], place: Place | None = None) -> Outcome:
    """Train, test and record one run. ``command`` is the command line, for the record; ``place`` that of a sweep's run.

    Raises:
        ConfigError: CUDA was asked for and does not work, or timm refuses its optimizer; no folder is made.
        GradlabError: something outside the code failed, such as a damaged data file; the run is FAILED in its journal.
    """
    began = time.perf_counter()
    check_device_and_libraries(config)

    with place.interruption if place else Interruption() as interruption:
        # The run's folder and journal. From here on MLflow is imported and its store opened by a process beside this one.
        try:
            folder = place.folder if place else RunFolder.create(Path(config.output_dir).expanduser(), config.name)
        except OSError as error:
            raise ConfigError(f"output_dir={config.output_dir} cannot hold a run's folder: {error}.") from error
        folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create(config.composed)))
        journal = Journal(folder.journal)
        _open_record(journal, config, folder, command, place)
        shipper = Shipper(folder, config.tracking) if isinstance(config.tracking, MLflow) and not place else None

        with _end_recorded(journal, folder, shipper, interruption), contextlib.ExitStack() as cleanup:
            # What data.download=true asks for, in this thread: a signal must be able to end it.
            config.data.fetch()

            # Data, while torch and Lightning are imported: seven seconds of imports on a slow machine.
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                loading = thread.submit(place.load, config.data) if place else thread.submit(config.data.load)
                from rich.console import Console

                from gradlab import console as terminal
                from gradlab import probe
                from gradlab.checkpoints import Checkpointer
                from gradlab.data.balance import ClassBalance
                from gradlab.data.sample import sample
                from gradlab.models.size import layer_table
                from gradlab.trained.network import images_record

                splits = loading.result()
            if len(splits.train) != config.spec.train_examples:
                raise DataError("The files of the data were changed while the run began. Start it again.")
            if splits.skipped:
                folder.write_skipped(splits.skipped)
                journal.artifact(folder.skipped)

            # The network, its optimizer and its schedule; the images; Lightning's Trainer.
            prepared = prepare(config, splits, journal, interruption)
            classifier, screen = prepared.classifier, Console()
            cleanup.callback(prepared.data.close)
            checkpointer = Checkpointer(
                folder.checkpoints,
                seconds=60 * config.trainer.checkpoint_interval.number,
                about={
                    "config": config.composed,
                    "images": images_record(config.spec, prepared.data.normalization),
                    "versions": environment.versions(),
                },
            )
            callbacks: list[pl.Callback] = [terminal.ProgressReport(screen), checkpointer]
            callbacks += [place.report] if place else []
            if every := config.trainer.probe_steps(config.horizon):
                seen = sample(splits, prepared.data.normalization, probe.IMAGES, prepared.data.dtype)
                callbacks.append(probe.LayerProbe(seen, every, folder.layer_states))
            trainer = lightning_trainer(config, callbacks)
            device = _device_name(trainer.strategy.root_device)
            known_now = {"device": device, "threads": prepared.threads, "data_sha256": splits.fingerprint}
            known_now["multiply_adds"] = prepared.calls[0].multiply_adds
            journal.write("tags", tags={f"gradlab.{key}": str(value) for key, value in known_now.items()})
            balance = ClassBalance.of(splits, config.spec.classes)
            journal.write("tags", tags={"gradlab.class_imbalance": f"{balance.ratio:.3g}"})
            folder.layers.parent.mkdir()
            folder.layers.write_text(layer_table(prepared.calls))
            journal.artifact(folder.layers, "model")
            where = prepared.data.place(trainer.strategy.root_device)
            lines = [*_headline(config, splits, classifier, device, where), splits.remark]
            if notice := balance.notice():
                lines.append(f"{notice}; data.class_weights={config.data.class_weights}")
            screen.print("\n".join(filter(None, lines)), highlight=False, soft_wrap=True, markup=False)

            # Training.
            ready = time.perf_counter()
            trainer.fit(classifier, datamodule=prepared.data)
            status = "diverged" if classifier.divergence else "killed" if interruption() else "finished"

            # The only look at the test set, by the network that validation chose.
            if status == "finished":
                checkpointer.restore_best(classifier)
                trainer.test(classifier, datamodule=prepared.data, verbose=False)

            # The result, on disk before anything that is only there to be looked at.
            metrics = _summary(classifier, checkpointer)
            journal.metrics(classifier.steps_done, metrics)
            result = _result(config, status, metrics, classifier) | known_now | {"class_counts": balance.counts()}
            result |= {"point": place.point} if place else {}
            result["seconds"] = {
                "until_training": ready - began,
                "training_steps": classifier.training_seconds,
                "training_and_test": time.perf_counter() - ready,
                "total": time.perf_counter() - began,
            }
            folder.write_result(result)
            if folder.layer_states.exists():
                journal.artifact(folder.layer_states, "model")
            if config.plots:
                from gradlab.analysis.figures import draw_run
                from gradlab.analysis.network_diagram import draw_network

                draw_run(folder, config.spec, splits, classifier, prepared.data.normalization)
                about = f"{getattr(config.model, 'arch', config.model.name)} on {config.data.name}"
                loss = config.loss.name.replace("_", " ")
                draw_network(
                    folder.plots / "network.png", prepared.calls, splits.test.at(np.zeros(1, np.int64))[0], about, loss
                )
                if folder.layer_states.exists():
                    from gradlab.analysis.layers_figure import layers_figure

                    layers_figure(probe.read_states(folder.layer_states)).savefig(folder.plots / "layers.png", dpi=110)
                if config.augment:
                    from gradlab.analysis.augmented import draw_augmented

                    draw_augmented(folder, config.spec, splits.train, prepared.data.augmenter("cpu"))
                journal.artifact(folder.plots, "plots")
            if checkpointer.best:
                journal.artifact(folder.checkpoints / "best", "checkpoints/best")
            _close_record(journal, status, classifier)

    # What MLflow took, and the table.
    see = note = None
    if shipper is not None:
        shipped = shipper.finish()
        result |= {"mlflow_run_id": shipped.run_id, "mlflow_experiment_id": shipped.experiment_id}
        if shipped.pending:
            sync = terminal.command("sync", str(folder.path))
            note = f"{shipped.pending:,} records are not in MLflow: {shipped.error}.\nOnce it works again: {sync}"
        else:
            see = terminal.command("ui", *_store_arguments(config.tracking))
        result["seconds"]["total"] = time.perf_counter() - began
        folder.write_result(result)
    terminal.print_results(screen, result, folder.path, see, note)
    return Outcome(status, folder.path, metrics, interruption.signum if status == "killed" else None)


def _result(config: Config, status: str, metrics: dict[str, float], classifier: "Classifier") -> dict[str, Any]:
    from gradlab.checkpoints import parameters_sha256
    from gradlab.models.size import parameter_count

    return {
        "status": status,
        "name": config.name,
        "metrics": metrics,
        "steps": classifier.steps_done,
        "diverged": vars(classifier.divergence) if classifier.divergence else None,
        "seed": config.seed,
        "parameters": parameter_count(classifier.model),
        # A diverged run's weights are those of wherever its chunk ended, and no two runs' chunks are alike.
        "parameters_sha256": None if classifier.divergence else parameters_sha256(classifier.model),
        "versions": environment.versions(),
        "source": environment.source(),
    }


def _open_record(journal: Journal, config: Config, folder: RunFolder, command: list[str], place: Place | None) -> None:
    """The journal's first lines: who this run is, and its configuration."""
    tags = {"gradlab.seed": str(config.seed), **about_process(folder, command)}
    experiment = config.tracking.experiment if isinstance(config.tracking, MLflow) else "gradlab"
    identity = f"{folder.path.name}.{secrets.token_hex(4)}"
    sweep = {"parent": place.parent, "point": place.point} if place else {}
    params = flat(config.composed)
    journal.write("run", id=identity, name=config.name, experiment=experiment, params=params, tags=tags, **sweep)
    journal.artifact(folder.config)


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
        return {path: json.dumps(node) if isinstance(node, list) else "null" if node is None else node}
    leaves: dict[str, Any] = {}
    for key, child in node.items():
        leaves |= flat(child, f"{path}.{key}" if path else str(key))
    return leaves


def _close_record(journal: Journal, status: str, classifier: "Classifier") -> None:
    tags = {"gradlab.status": status}
    if classifier.divergence:
        tags |= {
            "gradlab.diverged_at_step": str(classifier.divergence.step),
            "gradlab.diverged_at_lr": f"{classifier.divergence.lr:.6g}",
        }
    journal.write("tags", tags=tags)
    journal.write("end", status="KILLED" if status == "killed" else "FINISHED")
    journal.close()


@contextlib.contextmanager
def _end_recorded(
    journal: Journal, folder: RunFolder, shipper: Shipper | None, interruption: Interruption
) -> Iterator[None]:
    """Whatever ends a run early is in its journal, in its result and in MLflow.

    Each is written whether or not the others can be: a full disk must not leave a run RUNNING in MLflow. A run that has
    its result already (a failure while drawing its figures) keeps it.
    """
    try:
        yield
    except BaseException as error:
        # Lightning turns a signal outside of training into SystemExit; without a signal it is the run's own sys.exit.
        quitting = isinstance(error, SystemExit) and not interruption() and type(error) is SystemExit
        killed = isinstance(error, KeyboardInterrupt | SystemExit) and not quitting
        reason = "interrupted" if killed else f"{type(error).__name__}: {error}"
        status = "killed" if killed else "failed"
        with contextlib.suppress(OSError):
            if folder.result.exists():
                status = json.loads(folder.result.read_text())["status"]
            else:
                folder.write_result({"status": status, "reason": reason, "versions": environment.versions()})
        with contextlib.suppress(OSError):
            journal.write("tags", tags={"gradlab.status": status, "gradlab.reason": reason[:5000]})
            journal.write("end", status={"killed": "KILLED", "failed": "FAILED"}.get(status, "FINISHED"))
        with contextlib.suppress(OSError):
            journal.close()
        if shipper is not None:
            shipper.finish()
        if quitting:
            raise GradlabError(f"The run ended itself by sys.exit({error.code!r}).") from error  # type: ignore[attr-defined]
        if isinstance(error, SystemExit):
            raise Interrupted(interruption.signum or signal.SIGINT) from error
        if isinstance(error, RuntimeError):
            from gradlab.data.stream import is_lost_worker, lost_worker

            if is_lost_worker(error):
                raise lost_worker() from error
        if _is_out_of_memory(error):
            raise GradlabError(
                f"There is not enough memory for this network and batch: {str(error).splitlines()[0]}. "
                "Choose a smaller model, a smaller data.batch_size, or another device."
            ) from error
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's CPU allocator raises a plain RuntimeError, CUDA's a subclass named OutOfMemoryError.
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))


def _summary(classifier: "Classifier", checkpointer: "Checkpointer") -> dict[str, float]:
    metrics = dict(classifier.test_metrics)
    if checkpointer.best:
        metrics |= {"best/val_accuracy": checkpointer.best["val/accuracy"], "best/step": checkpointer.best_step}
    if classifier.last_round and not classifier.divergence:
        metrics["final/train_loss"] = classifier.last_round["train/loss"]
    return metrics


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else environment.processor()


def _headline(config: Config, splits: "Splits", classifier: "Classifier", device: str, where: str) -> list[str]:
    """One line for what runs, and one for on what."""
    from gradlab.models.size import parameter_count

    usual = ("uniform", "none")
    choices = " · ".join(
        [
            f"{config.model.name} ({parameter_count(classifier.model):,} parameters)",
            f"{config.optimizer_name} lr={config.optimizer.lr:.6g}",
            *(
                choice.name
                for choice in (config.param_groups, config.wrapper, config.averaging)
                if choice.name not in usual
            ),
            f"{config.schedule.name} schedule",
            f"{config.init.name} init",
            f"seed {config.seed}",
        ]
    )
    kind = "points" if config.spec.planar else "images"
    sizes = f"{len(splits.train):,} training, {len(splits.val):,} validation and {len(splits.test):,} test {kind}"
    data = f"{config.data.name}: {sizes} ({where}), batches of {config.batch_examples:,}, on {device}"
    return [choices, data]


def _store_arguments(tracking: Any) -> list[str]:
    arguments = []
    if tracking.uri is not None:
        arguments += ["--uri", tracking.uri]
    if tracking.experiment != "gradlab":
        arguments += ["--experiment", tracking.experiment]
    return arguments
