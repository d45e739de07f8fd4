"""How a run trains and where it reports: the dataclasses of the ``trainer`` and ``tracking`` axes."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gradlab.bounds import check_number, check_option
from gradlab.durations import UNITS_OF_A_RUN, Horizon, duration_of
from gradlab.errors import ConfigError, FieldError
from gradlab.registry import Registry
from gradlab.views import VIEWS

MULTIPLY_ADDS_PER_THREAD = 2_000_000
"""Multiply-adds of a forward pass that are worth a CPU thread. Measured on two idle cores, one thread against two: 1.10
against 0.95 ms a step at 0.8 million (digits, MLP; on busy cores 0.66 against 4.8), 1.16 against 0.93 at 7.6 million (MLP on
28×28 images), 7.8 against 5.3 at 27 million (LeNet). experiments/LOG.md has more."""

UNITS_OF_CHECKPOINTS = ("minutes", *UNITS_OF_A_RUN)
CHECKPOINT_PAUSE, CHECKPOINT_SHARE = 300.0, 0.01
"""Of ``checkpoint_every=auto``: seconds between two, at least, and the share of the time that they may take."""


@dataclass(frozen=True)
class Trainer:
    """Device, precision and length of a run.

    name: ``auto`` (CUDA where there is a device, else the CPU), ``cpu`` or ``cuda``.
    precision: ``fp32``, ``bf16`` (mixed: matrix products in bfloat16, parameters in float32) or ``fp64``.
    max_epochs: length of the run in passes over the training images, ≥ 1; or null.
    max_steps: length of the run in optimizer steps, ≥ 1; or null. Exactly one of the two is set.
    validate_every: rhythm of validation, as ``1 epochs``, ``200 steps`` or ``10%``; the end is always validated.
    log_every: rhythm of the rows of training loss and accuracy; each row is the mean over the steps since the last.
    probe_every: rhythm of looks into the layers (mean and spread of activations and gradients, dead units), which are drawn in
        plots/layers.png; or null for none. A look changes nothing of the training.
    checkpoint_every: rhythm of checkpoints, as ``5 minutes``, ``500 steps``, ``2 epochs`` or ``10%``; one is written at the end in
        any case. 0 for only that one. ``auto``: every five minutes, or rarer where they would take more than a hundredth of the
        time. They are written between chunks, so up to a quarter of a second late.
    threads: CPU threads of torch, from 1 to the cores there are; or null for what the work of a step can use, at most the cores there are.
    devices: GPUs of this machine that train one run together, ≥ 1, each on its part of every mini-batch (DistributedDataParallel);
        on the CPU as many processes, which share its cores.
    sharding: how they do so: ``ddp``, each with all of the network, or ``fsdp``, each with a part of every weight and of its
        optimizer state, for what one GPU's memory does not hold: more is sent between them.
    speed: ``safe`` for eager steps, one operation after the other; ``max`` for steps that are one compiled function, where the
        network, the optimizer and the machine allow it; ``auto`` for whichever makes the run shorter, compiling included. On a GPU
        all but ``safe`` ones are captured: their kernels are launched all at once. The results differ by rounding.
    deterministic: refuse operations whose result may differ between two runs on one GPU.
    clip_norm: gradients whose norm, over all parameters, is larger are scaled down to it, > 0; or null. The norm of every
        step before that is then a metric, ``train/gradient_norm``.
    clip_value: every entry of the gradients is brought into ±clip_value, > 0; or null.
    accumulate: parts into which a batch is cut, ≥ 1, whose gradients are added up before the step: the step of the whole
        batch, up to rounding and BatchNorm's statistics, in that share of the memory.
    views: what validation and test, and whoever asks the network later, show it of an image: ``plain``, ``mirrored`` (the mean answer
        to it and its mirror image) or ``shifted`` (and to both moved by a pixel: six views), see ``views.py``.
    """

    name: str
    precision: str
    max_epochs: int | None
    max_steps: int | None
    validate_every: str
    log_every: str
    probe_every: str | None
    checkpoint_every: str
    threads: int | None
    devices: int
    sharding: str
    speed: str
    deterministic: bool
    clip_norm: float | None
    clip_value: float | None
    accumulate: int
    views: str

    def __post_init__(self) -> None:
        check_option(self, "precision", ["fp32", "bf16", "fp64"])
        check_number(self, "devices", at_least=1, at_most=64)
        check_option(self, "sharding", ["ddp", "fsdp"])
        check_option(self, "speed", ["auto", "max", "safe"])
        for field in ("max_epochs", "max_steps", "threads"):
            if getattr(self, field) is not None:
                check_number(self, field, at_least=1, at_most=cores() if field == "threads" else None)
        if self.max_epochs is None and self.max_steps is None:
            raise FieldError("max_epochs", "and trainer.max_steps are both null: set one, so that the run has an end")
        if self.max_epochs is not None and self.max_steps is not None:
            raise FieldError(
                "max_steps",
                f"and trainer.max_epochs are both given, {self.max_steps} and {self.max_epochs}, and which of them ends "
                "the run is ambiguous. Set one to null, as in trainer.max_epochs=null",
            )
        for field in ("validate_every", "log_every", "probe_every"):
            if getattr(self, field) is not None and duration_of(self, field).number == 0:
                raise FieldError(field, "must be above 0")
        if self.checkpoint_every != "auto":
            duration_of(self, "checkpoint_every", units=UNITS_OF_CHECKPOINTS)
        for field in ("clip_norm", "clip_value"):
            if getattr(self, field) is not None:
                check_number(self, field, above=0)
        if self.clip_norm is not None and self.clip_value is not None:
            raise FieldError(
                "clip_value",
                f"and trainer.clip_norm are both given, {self.clip_value:g} and {self.clip_norm:g}. Set one to null",
            )
        check_number(self, "accumulate", at_least=1)
        check_option(self, "views", list(VIEWS))

    def horizon(self, train_examples: int, batch_examples: int) -> Horizon:
        """The length of a run over ``train_examples`` images in batches of ``batch_examples``."""
        steps_per_epoch = -(-train_examples // batch_examples)
        if self.max_steps is not None:
            return Horizon(self.max_steps, steps_per_epoch)
        assert self.max_epochs is not None
        return Horizon(self.max_epochs * steps_per_epoch, steps_per_epoch)

    def steps(self, field: str, horizon: Horizon) -> int:
        """The duration in ``field`` (validate_every, log_every or probe_every) in steps of this run, ≥ 1."""
        return duration_of(self, field).steps(horizon)

    def probe_steps(self, horizon: Horizon) -> int | None:
        """Steps between looks into the layers; None for no looks."""
        return None if self.probe_every is None else self.steps("probe_every", horizon)

    def checkpoint_rhythm(self, horizon: Horizon) -> tuple[float, int]:
        """Seconds between two checkpoints, or steps; the other is 0, or both where there is to be one at the end only."""
        if self.checkpoint_every == "auto":
            return CHECKPOINT_PAUSE, 0
        duration = duration_of(self, "checkpoint_every", units=UNITS_OF_CHECKPOINTS)
        return (60 * duration.number, 0) if duration.unit == "minutes" else (0.0, duration.steps(horizon))

    @property
    def checkpoint_share(self) -> float:
        """Share of the time that checkpoints may take; 1 where they come as they were asked for."""
        return CHECKPOINT_SHARE if self.checkpoint_every == "auto" else 1.0

    def cpu_threads(self, step_multiply_adds: int) -> int:
        """The number of threads that torch is pinned to; recorded, because the last bits on a CPU depend on it.

        Decided by the work of a step, not by a stopwatch: the same command must give the same bits again. A thread too
        many costs more than it brings where its share of a layer is a few microseconds, and ten times the step where
        another process wants its core.
        """
        if self.threads is not None:
            return self.threads
        share = step_multiply_adds // self.devices // MULTIPLY_ADDS_PER_THREAD
        return max(1, min(cores() // self.devices, share))

    def check(self) -> None:
        """Raise ``ConfigError`` where CUDA is asked for and the system has no driver. Needs no torch, takes no time."""
        drivers = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu")
        if self.name == "cuda" and not any(Path(driver).exists() for driver in drivers):
            raise ConfigError(
                "trainer=cuda needs an NVIDIA GPU with its driver, and this machine has none. "
                "Choose trainer=cpu, or trainer=auto, which takes CUDA where it is."
            )


TRAINERS: Registry[Trainer] = Registry("trainer")
TRAINERS.register("auto", "cpu", "cuda")(Trainer)


class Tracking(Protocol):
    """What every entry of ``TRACKING`` has."""

    @property
    def name(self) -> str: ...


TRACKING: Registry[Tracking] = Registry("tracking")


def without_secret(text: str) -> str:
    """``text`` without the user name and password that an address in it may hold."""
    return re.sub(r"://[^/?#\s]*@", "://***@", text)


def cores() -> int:
    """The cores that this process may use; a worker of a sweep is told its share of them."""
    return min(len(os.sched_getaffinity(0)), int(os.environ.get("GRADLAB_CORES", sys.maxsize)))


@TRACKING.register("none")
@dataclass(frozen=True)
class NoTracking:
    """The run's folder only. ``gradlab sync`` can ship it to MLflow later."""

    name: str


STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def check_store(uri: str) -> None:
    """Raise ``FieldError`` for an address that no MLflow of today can track to: said now, not after hours of training."""
    scheme, _, rest = uri.partition("://")
    if scheme.split("+")[0] not in STORES or (not rest and scheme != "databricks"):
        raise FieldError(
            "uri",
            f"must be the address of an MLflow store, such as sqlite:///mlflow.db or http://host:5000, not '{uri}'",
        )
    if scheme == "sqlite" and (not rest.strip("/") or Path(rest.removeprefix("/")).expanduser().is_dir()):
        raise FieldError("uri", f"must name a database file, as sqlite:///mlflow.db does, not a folder: '{uri}'")


@TRACKING.register("mlflow")
@dataclass(frozen=True)
class MLflow:
    """A view of the run's journal in MLflow, shipped in the background.

    uri: tracking URI; or null for the environment's MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db`` in the working
        directory. A name and password belong into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, never here.
    experiment: the MLflow experiment that the run joins.
    """

    name: str
    uri: str | None
    experiment: str

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise FieldError("experiment", "must not be empty")
        if self.uri is not None and without_secret(self.uri) != self.uri:
            raise FieldError(
                "uri",
                "holds a user name or password, and configurations are recorded. Give it in the environment variable "
                "MLFLOW_TRACKING_URI instead",
            )
        if self.uri is not None:
            check_store(self.uri)


def store_options(tracking: Tracking) -> list[str]:
    """The options of ``gradlab ui`` that name the store and the experiment of ``tracking``."""
    if not isinstance(tracking, MLflow):
        return []
    uri = [] if tracking.uri is None else ["--uri", tracking.uri]
    return uri + ([] if tracking.experiment == "gradlab" else ["--experiment", tracking.experiment])
