"""The LightningModule of one run: what an optimizer step is, and what is counted while it happens."""

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn import functional as F

from gradlab.averaging import Averaging, NoAveraging
from gradlab.data.device import Batch, Chunk, TrainingChunks
from gradlab.durations import Horizon
from gradlab.interruption import Interruption
from gradlab.losses import Loss
from gradlab.optimizer_state import load_optimizer_state, optimizer_state
from gradlab.optimizers import Optimizer
from gradlab.optimizers.schedule_free import ScheduleFree
from gradlab.param_groups import ParamGroups, Uniform, build_optimizer, trainable
from gradlab.schedules import Schedule
from gradlab.schedules.plateau import Plateau, PlateauWatch
from gradlab.stepping import ScheduleFreeAverage, Step, Tensors
from gradlab.tracking.journal import Journal
from gradlab.wrappers import NoWrapper, Wrapper


@dataclass
class Counts:
    """Sums over images, so that a short batch counts by its size. ``loss`` is the summed cross-entropy, in nats."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0

    def add(self, loss: float, correct: int, images: int) -> None:
        self.loss += loss
        self.correct += correct
        self.images += images

    def rates(self, split: str) -> dict[str, float]:
        """Mean loss and accuracy (0 to 1), by their names in the journal."""
        return {f"{split}/loss": self.loss / self.images, f"{split}/accuracy": self.correct / self.images}


@dataclass(frozen=True)
class Divergence:
    """The first step (counted from 1) whose loss, or after which the validation loss, was not finite."""

    step: int
    lr: float


class Classifier(pl.LightningModule):
    """Trains ``model``. One Lightning batch is a chunk of mini-batches, each an optimizer step.

    Optimization is manual: Lightning's Python for a batch is paid once for a whole chunk, and nothing waits for the
    device until the chunk's end, where losses and counts are fetched at once and written to the journal.

    Args:
        model: from images [batch, channels, height, width] to logits [batch, classes].
        loss: what training minimises.
        optimizer: built here, over the groups of all parameters.
        schedule: multiplies the optimizer's learning rate at every step.
        horizon: length of the run.
        journal: where metric rows go.
        log_steps: steps between rows of training metrics.
        class_weights: of the loss, float [classes]; or None for all alike.
        param_groups: which parameters the optimizer treats alike.
        wrapper: around the optimizer.
        averaging: of the weights, for validation and test.
        clip_norm, clip_value: bounds of the gradients, see ``settings.Trainer``; or None.
        accumulate: parts of a mini-batch that pass through the network one after the other.
        interruption: asked after every step; a signal ends the training there.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        horizon: Horizon,
        journal: Journal,
        log_steps: int,
        class_weights: torch.Tensor | None = None,
        param_groups: ParamGroups | None = None,
        wrapper: Wrapper | None = None,
        averaging: Averaging | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        interruption: Interruption | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.loss_config = loss
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.optimizer_config = optimizer
        self.schedule = schedule
        self.horizon = horizon
        self.journal = journal
        self.log_steps = log_steps
        self.param_groups = param_groups or Uniform("uniform")
        self.wrapper_config = wrapper or NoWrapper("none")
        self.averaging_config = averaging or NoAveraging("none")
        self.wrapper, self.averaging = Step(), Step()
        self.plateau = PlateauWatch(schedule, horizon) if isinstance(schedule, Plateau) else None
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.accumulate = accumulate
        self.interruption = interruption or Interruption()
        self.steps_done = 0
        self.images_seen = 0
        self.training_seconds = 0.0
        self.divergence: Divergence | None = None
        self.last_chunk = Counts()
        self.last_round: dict[str, float] = {}
        self.last_val: dict[str, float] = {}
        self.test_logits = torch.empty(0)
        self.test_labels = torch.empty(0)
        self.test_metrics: dict[str, float] = {}
        self._window = Counts()
        self._window_norms: list[float] = []
        self._round = Counts()
        self._round_seconds = 0.0
        self._evaluated: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._judged: torch.nn.Module = model
        self._clipped: list[torch.nn.Parameter] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer, and what goes around its steps: the network is on its device by now."""
        optimizer = build_optimizer(self.optimizer_config, self.param_groups.of(self.model))
        self.wrapper = self.wrapper_config.build(self.model)
        if isinstance(self.optimizer_config, ScheduleFree):
            self.averaging = ScheduleFreeAverage(self.model, optimizer)
        else:
            self.averaging = self.averaging_config.build(self.model, self.horizon)
        self._clipped = [parameter for _, parameter in trainable(self.model)]
        return optimizer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)  # type: ignore[no-any-return]

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0; of the group with the optimizer's own ``lr``.

        With a plateau schedule, whose drops follow validation, of a step since the last one.
        """
        return self.optimizer_config.lr * self._factor(step)

    def _factor(self, step: int) -> float:
        factor = self.schedule.factor(step, self.horizon)
        return factor * self.plateau.factor if self.plateau else factor

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        self.interruption.training_begins()

    def on_train_end(self) -> None:
        self.interruption.training_ends()

    def training_step(self, chunk: Chunk, chunk_index: int) -> None:
        started = time.perf_counter()
        optimizer = self._optimizer()
        losses, correct, norms, sizes = [], [], [], []
        for step, batch in enumerate(chunk, start=chunk.first_step):
            factor = self._factor(step)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            loss, right = self.wrapper.gradients(functools.partial(self._add_gradients, batch))
            norms += self._clip_gradients()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.wrapper.after_step(step + 1)
            self.averaging.after_step(step + 1)
            losses.append(loss)
            correct.append(right)
            sizes.append(len(batch.labels))
            if self.interruption():
                break
        # The only wait for the device: one copy of all the chunk's numbers.
        told = [torch.stack(numbers).double() for numbers in (losses, correct, norms) if numbers]
        fetched = torch.stack(told).tolist()
        seconds = time.perf_counter() - started
        self._count(chunk.first_step, fetched[0], [int(number) for number in fetched[1]], fetched[2:], sizes, seconds)

    def _add_gradients(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of the batch's mean loss to the parameters'; that loss, and how many answers are right."""
        if self.accumulate == 1:
            logits = self.model(batch.images)
            loss = self.loss_config.of(logits, batch, self.class_weights)
            loss.backward()
            return loss.detach(), (logits.detach().argmax(1) == batch.labels).sum()
        whole = self.loss_config.weight(batch, self.class_weights)
        losses, correct = [], []
        for part in _parts(batch, self.accumulate):
            logits = self.model(part.images)
            # A mean over the part, weighted so that the parts add up to the mean over the batch.
            share = self.loss_config.weight(part, self.class_weights) / whole
            loss = share * self.loss_config.of(logits, part, self.class_weights)
            loss.backward()
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(1) == part.labels).sum())
        return torch.stack(losses).sum(), torch.stack(correct).sum()

    def _clip_gradients(self) -> list[torch.Tensor]:
        """Bring the gradients into their bounds; their norm before, where there is a bound of it."""
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._clipped, self.clip_value, foreach=True)
        if self.clip_norm is not None:
            return [torch.nn.utils.clip_grad_norm_(self._clipped, self.clip_norm, foreach=True)]
        return []

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _count(
        self,
        first_step: int,
        losses: list[float],
        correct: list[int],
        norms: list[list[float]],
        sizes: list[int],
        seconds: float,
    ) -> None:
        """Book a chunk: rows for the journal, the position, throughput, and whether the loss is still finite.

        ``norms`` has one list, the gradients' norms, or none.
        """
        self.last_chunk = Counts()
        for step, (loss, right, size) in enumerate(zip(losses, correct, sizes, strict=True), start=first_step + 1):
            self.steps_done = step
            if not math.isfinite(loss):
                self._diverge(step, {"train/loss": loss, "lr": self.learning_rate(step - 1)})
                break
            for counts in (self._window, self._round, self.last_chunk):
                counts.add(loss * size, right, size)
            self._window_norms += [values[step - first_step - 1] for values in norms]
            if step % self.log_steps == 0 or step == self.horizon.total_steps:
                row = {**self._window.rates("train"), "lr": self.learning_rate(step - 1)}
                if self._window_norms:
                    row["train/gradient_norm"] = sum(self._window_norms) / len(self._window_norms)
                self.journal.metrics(step, row)
                self._window, self._window_norms = Counts(), []
        # Lightning counts optimizer steps where its own wrapper makes them; its callbacks read this.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.total.ready = progress.total.completed = self.steps_done
        self.images_seen += sum(sizes)
        self.training_seconds += seconds
        self._round_seconds += seconds
        chunks = self.trainer.train_dataloader
        if isinstance(chunks, TrainingChunks):
            chunks.pace.record(len(losses), seconds)
        if self.divergence or self.interruption():
            self.trainer.should_stop = True

    def _diverge(self, step: int, values: dict[str, float]) -> None:
        self.divergence = Divergence(step, self.learning_rate(step - 1))
        self.journal.metrics(step, values)
        self.trainer.should_stop = True

    # ---------------------------------------------------------------- evaluation

    @property
    def judged(self) -> torch.nn.Module:
        """The network that validation judges: the average of the weights, the slow ones, or the one in training."""
        networks = (step.network() for step in (self.averaging, self.wrapper))
        return next((network for network in networks if network is not None), self.model)

    def adopt(self, tensors: Tensors) -> None:
        """Training is over: the network is this one from here on, a state of ``judged``."""
        self.model.load_state_dict(tensors)
        self.wrapper, self.averaging = Step(), Step()

    def on_validation_epoch_start(self) -> None:
        self._evaluated, self._judged = [], self.judged

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluated.append((self._judged(batch.images), batch.labels))

    def on_validation_epoch_end(self) -> None:
        self.last_val = _evaluation("val", *_joined(self._evaluated))
        row = dict(self.last_val)
        if self._round.images:
            self.last_round = self._round.rates("train")
            row["throughput/images_per_second"] = self._round.images / self._round_seconds
        self._round, self._round_seconds = Counts(), 0.0
        if math.isfinite(self.last_val["val/loss"]):
            self.journal.metrics(self.steps_done, row)
            if self.plateau:
                self.plateau.see(self.steps_done, self.last_val)
        elif self.divergence is None:
            self._diverge(self.steps_done, row)

    def on_test_epoch_start(self) -> None:
        self._evaluated, self._judged = [], self.judged

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.test_logits, self.test_labels = _joined(self._evaluated)
        self.test_metrics = _evaluation("test", self.test_logits, self.test_labels)

    # ---------------------------------------------------------------- continuing

    def training_state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that the training has made, but for its position and the journal: tensors, and values for JSON."""
        optimizer = optimizer_state(self._optimizer())
        wrapper, averaging = self.wrapper.state(), self.averaging.state()
        parts = {"model": self.model.state_dict(), "optimizer": optimizer[0]}
        parts |= {"wrapper": wrapper[0], "averaging": averaging[0]}
        tensors = {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
        numbers = {"optimizer": optimizer[1], "wrapper": wrapper[1], "averaging": averaging[1]}
        return tensors, {**numbers, "plateau": self.plateau.state() if self.plateau else None}

    def load_training_state(self, tensors: Tensors, state: dict[str, Any]) -> None:
        """Go on from what ``training_state`` gave, once the optimizer is built.

        Raises:
            CheckpointError: the optimizer is another one.
        """
        parts: dict[str, Tensors] = {"model": {}, "optimizer": {}, "wrapper": {}, "averaging": {}}
        for path, tensor in tensors.items():
            part, _, name = path.partition(".")
            parts[part][name] = tensor
        self.model.load_state_dict(parts["model"])
        load_optimizer_state(self._optimizer(), parts["optimizer"], state["optimizer"])
        self.wrapper.load(parts["wrapper"], state["wrapper"])
        self.averaging.load(parts["averaging"], state["averaging"])
        if self.plateau:
            self.plateau.load(state["plateau"])


def _parts(batch: Batch, count: int) -> list[Batch]:
    """``batch`` cut into at most ``count`` parts, all but the last of one size."""
    size = -(-len(batch.labels) // count)
    pieces = [[None] * count if whole is None else whole.split(size) for whole in batch]
    return [Batch(*piece) for piece in zip(*pieces, strict=False)]


def _joined(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, labels


def _evaluation(split: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Exact loss and accuracy over all images: summed in float64, so that no image is rounded away."""
    loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
    correct = (logits.argmax(1) == labels).sum().double()
    total_loss, total_correct = torch.stack([loss, correct]).tolist()
    return Counts(total_loss, int(total_correct), len(labels)).rates(split)
