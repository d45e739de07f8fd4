"""The books of one run: what its training made at which step, told to the journal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional as F

from gradlab.durations import Horizon
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


_CARRIED = ("steps_done", "images_seen", "training_seconds", "validated_at", "last_round", "last_val")


class Ledger:
    """Books the steps and the evaluations of one run.

    Args:
        journal: where metric rows go.
        horizon: length of the run.
        log_steps: steps between rows of training metrics.
        learning_rate: of a step, counted from 0.
    """

    def __init__(
        self, journal: Journal, horizon: Horizon, log_steps: int, learning_rate: Callable[[int], float]
    ) -> None:
        self.journal = journal
        self.horizon = horizon
        self.log_steps = log_steps
        self.learning_rate = learning_rate
        self.steps_done = 0
        self.images_seen = 0
        self.training_seconds = 0.0
        self.divergence: Divergence | None = None
        self.validated_at = -1
        """Steps that were done at the last validation; -1 before any."""
        self.last_chunk = Counts()
        self.last_round: dict[str, float] = {}
        self.last_val: dict[str, float] = {}
        self.test_metrics: dict[str, float] = {}
        self._window = Counts()
        self._window_norms: list[float] = []
        self._round = Counts()
        self._round_seconds = 0.0

    def count(
        self,
        first_step: int,
        losses: Sequence[float],
        correct: Sequence[float],
        norms: Sequence[float],
        sizes: Sequence[int],
        seconds: float,
    ) -> None:
        """Book a chunk: its rows, the position, the time, and whether the loss is still finite.

        Args:
            first_step: of the chunk, counted from 0.
            losses: the mean of each step's mini-batch, in nats.
            correct: right answers of each step.
            norms: of each step's gradients; or empty.
            sizes: images of each step.
            seconds: that the chunk took.
        """
        self.last_chunk = Counts()
        for place, (loss, right, size) in enumerate(zip(losses, correct, sizes, strict=True)):
            self.steps_done = step = first_step + place + 1
            if not math.isfinite(loss):
                self.diverge(step, {"train/loss": loss, "lr": self.learning_rate(step - 1)})
                break
            for counts in (self._window, self._round, self.last_chunk):
                counts.add(loss * size, int(right), size)
            if norms:
                self._window_norms.append(norms[place])
            if step % self.log_steps == 0 or step == self.horizon.total_steps:
                row = {**self._window.rates("train"), "lr": self.learning_rate(step - 1)}
                if self._window_norms:
                    row["train/gradient_norm"] = sum(self._window_norms) / len(self._window_norms)
                self.journal.metrics(step, row)
                self._window, self._window_norms = Counts(), []
        self.images_seen += sum(sizes)
        self.training_seconds += seconds
        self._round_seconds += seconds

    def validated(self, logits: torch.Tensor, labels: torch.Tensor) -> bool:
        """Book a validation; returns whether its loss is finite.

        Args:
            logits: of all validation images, [images, classes].
            labels: int64 [images].
        """
        self.validated_at = self.steps_done
        self.last_val = evaluation("val", logits, labels)
        row = dict(self.last_val)
        if self._round.images:
            self.last_round = self._round.rates("train")
            row["throughput/images_per_second"] = self._round.images / self._round_seconds
        self._round, self._round_seconds = Counts(), 0.0
        if math.isfinite(self.last_val["val/loss"]):
            self.journal.metrics(self.steps_done, row)
            return True
        if self.divergence is None:
            self.diverge(self.steps_done, row)
        return False

    def state(self) -> dict[str, Any]:
        """What a continuation needs, for JSON."""
        return {
            **{name: getattr(self, name) for name in _CARRIED},
            "window": asdict(self._window),
            "window_norms": self._window_norms,
            "round": asdict(self._round),
            "round_seconds": self._round_seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        for name in _CARRIED:
            setattr(self, name, state[name])
        self._window, self._round = Counts(**state["window"]), Counts(**state["round"])
        self._window_norms, self._round_seconds = list(state["window_norms"]), state["round_seconds"]

    def diverge(self, step: int, values: dict[str, float]) -> None:
        """The run is over: ``values``, of ``step``, are not finite."""
        self.divergence = Divergence(step, self.learning_rate(step - 1))
        self.journal.metrics(step, values)


def evaluation(split: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Exact loss and accuracy over all images: summed in float64, so that no image is rounded away."""
    loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
    correct = (logits.argmax(1) == labels).sum().double()
    total_loss, total_correct = torch.stack([loss, correct]).tolist()
    return Counts(total_loss, int(total_correct), len(labels)).rates(split)
