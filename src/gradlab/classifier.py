"""The LightningModule of one run: what an optimizer step is, and what is counted while it happens."""

import math
import time
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch.nn import functional as F

from gradlab.data.device import Batch, Chunk, TrainingChunks
from gradlab.durations import Horizon
from gradlab.interruption import Interruption
from gradlab.losses import Loss
from gradlab.optimizers import Optimizer
from gradlab.schedules import Schedule
from gradlab.tracking.journal import Journal


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
        optimizer: built here, over all parameters that want a gradient.
        schedule: multiplies the optimizer's learning rate at every step.
        horizon: length of the run.
        journal: where metric rows go.
        log_steps: steps between rows of training metrics.
        class_weights: of the loss, float [classes]; or None for all alike.
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
        self._round = Counts()
        self._round_seconds = 0.0
        self._evaluated: list[tuple[torch.Tensor, torch.Tensor]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        optimizer = self.optimizer_config.build(trained)
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]  # not every group has the optimizer's own: muon's AdamW has another
        return optimizer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)  # type: ignore[no-any-return]

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0; of the group with the optimizer's own ``lr``."""
        return self.optimizer_config.lr * self.schedule.factor(step, self.horizon)

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        self.interruption.training_begins()

    def on_train_end(self) -> None:
        self.interruption.training_ends()

    def training_step(self, chunk: Chunk, chunk_index: int) -> None:
        started = time.perf_counter()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        losses, correct, sizes = [], [], []
        for step, batch in enumerate(chunk, start=chunk.first_step):
            factor = self.schedule.factor(step, self.horizon)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            logits = self.model(batch.images)
            loss = self.loss_config.of(logits, batch, self.class_weights)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(1) == batch.labels).sum())
            sizes.append(len(batch.labels))
            if self.interruption():
                break
        # The only wait for the device: one copy of all the chunk's numbers.
        fetched = torch.stack([torch.stack(losses).double(), torch.stack(correct).double()]).tolist()
        seconds = time.perf_counter() - started
        self._count(chunk.first_step, fetched[0], [int(number) for number in fetched[1]], sizes, seconds)

    def _count(
        self, first_step: int, losses: list[float], correct: list[int], sizes: list[int], seconds: float
    ) -> None:
        """Book a chunk: rows for the journal, the position, throughput, and whether the loss is still finite."""
        self.last_chunk = Counts()
        for step, (loss, right, size) in enumerate(zip(losses, correct, sizes, strict=True), start=first_step + 1):
            self.steps_done = step
            if not math.isfinite(loss):
                self._diverge(step, {"train/loss": loss, "lr": self.learning_rate(step - 1)})
                break
            for counts in (self._window, self._round, self.last_chunk):
                counts.add(loss * size, right, size)
            if step % self.log_steps == 0 or step == self.horizon.total_steps:
                self.journal.metrics(step, {**self._window.rates("train"), "lr": self.learning_rate(step - 1)})
                self._window = Counts()
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

    def on_validation_epoch_start(self) -> None:
        self._evaluated = []

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluated.append((self.model(batch.images), batch.labels))

    def on_validation_epoch_end(self) -> None:
        self.last_val = _evaluation("val", *_joined(self._evaluated))
        row = dict(self.last_val)
        if self._round.images:
            self.last_round = self._round.rates("train")
            row["throughput/images_per_second"] = self._round.images / self._round_seconds
        self._round, self._round_seconds = Counts(), 0.0
        if math.isfinite(self.last_val["val/loss"]):
            self.journal.metrics(self.steps_done, row)
        elif self.divergence is None:
            self._diverge(self.steps_done, row)

    def on_test_epoch_start(self) -> None:
        self._evaluated = []

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.test_logits, self.test_labels = _joined(self._evaluated)
        self.test_metrics = _evaluation("test", self.test_logits, self.test_labels)


def _joined(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, labels


def _evaluation(split: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Exact loss and accuracy over all images: summed in float64, so that no image is rounded away."""
    loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
    correct = (logits.argmax(1) == labels).sum().double()
    total_loss, total_correct = torch.stack([loss, correct]).tolist()
    return Counts(total_loss, int(total_correct), len(labels)).rates(split)
