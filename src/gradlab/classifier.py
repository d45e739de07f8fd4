"""The LightningModule of one run: hands chunks of mini-batches to its learner, and evaluations to its books."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from gradlab.data.device import Batch, Chunk, TrainingChunks
from gradlab.interruption import Interruption
from gradlab.learner import Learner, Measured
from gradlab.lightning import pl
from gradlab.views import answers

if TYPE_CHECKING:
    from gradlab.devices.ranks import Ranks


class Classifier(pl.LightningModule):
    """Trains the network of ``learner``. One Lightning batch is a chunk of mini-batches, each an optimizer step.

    Optimization is manual: Lightning's Python for a batch is paid once for a whole chunk, and nothing waits for the
    device until the chunk's end, where losses and counts are fetched at once and written to the journal.

    Args:
        learner: makes the steps.
        interruption: asked after every step; a signal ends the training there.

    ``compiled`` makes of the learner, once it is ready to train, what computes its steps as one function; None for eager ones.
    """

    def __init__(self, learner: Learner, interruption: Interruption | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = learner.model
        self.learners = [learner]
        self.interruption = interruption or Interruption()
        self.compiled: Callable[[Learner], Callable[[int, Batch], Measured]] | None = None
        self._answers: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._judged: torch.nn.Module = learner.model

    @property
    def learner(self) -> Learner:
        return self.learners[0]

    @property
    def ranks(self) -> "Ranks | None":
        """The devices that train together, where they are several."""
        return self.learner.ranks

    def configure_optimizers(self) -> Any:
        return self.learner.begin()

    def on_fit_start(self) -> None:
        """The network is on its device, and the checkpoint loaded, where there is one."""
        if self.compiled is not None:
            self.learner.compiled = self.compiled(self.learner)

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        self.learner.join_ranks()
        self.interruption.training_begins()

    def on_train_end(self) -> None:
        self.interruption.training_ends()

    def training_step(self, chunk: Chunk, chunk_index: int) -> None:
        started = time.perf_counter()
        measured: list[Measured] = []
        sizes = []
        for step, batch in enumerate(chunk, start=chunk.first_step):
            measured.append(self.advance(step, batch))
            sizes.append(self.images_of(batch))
            if self.interruption() and self.ranks is None:
                break
        told = torch.stack([torch.stack(numbers).double() for numbers in zip(*measured, strict=True)])
        # The only wait for the device: one copy of all the chunk's numbers.
        told = (told if self.ranks is None else self.ranks.sum(told)).cpu()
        seconds = time.perf_counter() - started
        if self.ranks is not None:
            seconds = self.ranks.agree(seconds, self.interruption, self.learner.point, self.device)
        self.book(chunk.first_step, told, sizes, seconds)
        steps_done = chunk.first_step + len(sizes)
        # Lightning counts optimizer steps where its own wrapper makes them; its callbacks read this.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.total.ready = progress.total.completed = steps_done
        chunks = self.trainer.train_dataloader
        if isinstance(chunks, TrainingChunks):
            chunks.pace.record(len(sizes), seconds)
        if self.asked_to_stop:
            self._stop()

    @property
    def asked_to_stop(self) -> bool:
        """Whether a signal ends the training; of several devices, once all know of it."""
        return self.interruption() if self.ranks is None else self.ranks.interrupted

    def advance(self, step: int, batch: Batch) -> Measured:
        """Make optimizer step ``step``, counted from 0."""
        return self.learner.step(step, batch)

    def images_of(self, batch: Batch) -> int:
        """The images of a mini-batch that every run sees."""
        return len(batch.labels)

    def book(self, first_step: int, told: torch.Tensor, sizes: list[int], seconds: float) -> None:
        """Write a chunk into the books; ``told`` is float64 [loss, right answers and perhaps norm; steps]."""
        losses, correct, *norms = told.tolist()
        self.learner.ledger.count(first_step, losses, correct, norms[0] if norms else [], sizes, seconds)
        if self.is_over(self.learner):
            self.trainer.should_stop = True

    def is_over(self, learner: Learner) -> bool:
        """Whether a run's training ends before its last step: it has diverged, or its sweep has given it up."""
        ledger = learner.ledger
        given_up = learner.point in self.interruption.pruned and ledger.steps_done < learner.horizon.total_steps
        return ledger.divergence is not None or given_up

    # ---------------------------------------------------------------- evaluation

    def on_validation_epoch_start(self) -> None:
        self._answers, self._labels, self._judged = [], [], self.learner.judged

    def _stop(self) -> None:
        """End the training here, without the validation that Lightning would add: one that goes on has none here either."""
        self.trainer.should_stop = True
        self.trainer.limit_val_batches = 0

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        if self.asked_to_stop:
            raise StopIteration  # so Lightning ends an evaluation; it is made when the training is gone on with
        self.test_step(batch, batch_index)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        images = batch.images if self.ranks is None else self.ranks.part(batch).images
        told = answers(self._judged, images if len(images) else batch.images[:1], self.learner.views)
        self._answers.append(told[: len(images)])
        self._labels.append(batch.labels)

    def on_validation_epoch_end(self) -> None:
        if self.asked_to_stop:
            self._stop()
            return
        self.learner.validated(*self._answered())
        if self.learner.ledger.divergence:
            self.trainer.should_stop = True

    def on_test_epoch_start(self) -> None:
        self.learner.adopt_now()
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        self.learner.tested(*self._answered())

    def _answered(self) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = torch.cat(self._answers), torch.cat(self._labels)
        if self.ranks is not None:
            logits = self.ranks.gathered(logits, [len(own) for own in self._labels])
        return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, labels
