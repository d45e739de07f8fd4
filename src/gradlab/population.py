"""The LightningModule of several runs at once: a population, whose members' networks are computed and stepped side by side.

A member is the run that it would be alone: the same start, batches, augmentation, dropout, schedule. What members share is
the work around the arithmetic: one data path, one launch of an operation for all, one process.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gradlab.classifier import Classifier
from gradlab.data.device import Batch
from gradlab.interruption import Interruption
from gradlab.learner import Learner, Measured, parts_of
from gradlab.seeds import RandomState, derive
from gradlab.stacked.clipping import clip
from gradlab.stacked.losses import losses_of
from gradlab.stacked.network import Stack
from gradlab.stacked.updates import update_for
from gradlab.views import answers

Tuple = tuple[Batch, ...]


class Population(Classifier):
    """Trains the networks of ``learners``, which have one architecture, one kind of each choice, and one length.

    A member whose loss is not finite, or that is given up, leaves at the end of the chunk, and those that stay are what they
    would be without it: nothing is ever summed over members.

    Args:
        learners: the members.
        seeds: of their runs. Members with the same seed see the same batches; a mini-batch comes as a tuple with one
            batch for each different seed, in the order of first appearance.
        interruption: see ``Classifier``.
        left: called with each member that has left, once all callbacks have seen its last chunk or validation.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        seeds: Sequence[int],
        interruption: Interruption | None = None,
        left: Callable[[Learner], None] = lambda learner: None,
    ) -> None:
        super().__init__(learners[0], interruption)
        self.learners = list(learners)
        self.networks = nn.ModuleList(learner.model for learner in learners)
        self.seeds = list(seeds)
        self.active = list(range(len(learners)))
        """The members that still train, in the stack's order."""
        self._stream_of = {seed: index for index, seed in enumerate(dict.fromkeys(seeds))}
        self._averages = False
        self._left = left
        self._leaving: list[Learner] = []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = self._stack()
        self._averages = any(learner.judged is not learner.model or _averages(learner) for learner in self.learners)
        return optimizers

    def _stack(self) -> list[torch.optim.Optimizer]:
        self.stack = Stack(
            [learner.model for learner in self.learners], [derive(seed, "forward") for seed in self.seeds]
        )
        optimizers = [learner.begin() for learner in self.learners]
        self.update = update_for(optimizers, self.stack.flat, self.stack.columns)
        for learner in self.learners:
            learner.settle = self._settle
            learner.random = _OwnGenerator(self, learner)
        return optimizers

    def on_fit_start(self) -> None:
        """The members' checkpoints have been loaded, where they are gone on with."""
        if self.update is not None:
            self.update.reload()

    # ------------------------------------------------------------------ training

    @property
    def _members(self) -> list[Learner]:
        return [self.learners[index] for index in self.active]

    def advance(self, step: int, batch: Any) -> Measured:
        members = self._members
        for member in members:
            member.set_rates(step)
        measured, gradients = self._gradients(members, _tuple(batch))
        norm = _clip(members, gradients)
        if self.update is not None:
            self.update.step(gradients)
        else:
            self._step_apart(members, gradients)
        if self._averages:
            for member in members:
                member.after_step(step)
        return measured + norm

    def _gradients(self, members: Sequence[Learner], batches: Tuple) -> tuple[Measured, list[torch.Tensor]]:
        """The members' losses and right answers, each [members], and the gradients of all parameters, [members, …]."""
        first = members[0]
        leaves = list(self.stack.parameters.values())
        if first.accumulate == 1:
            losses, correct = self._forward(members, batches)
            return (losses.detach(), correct), list(torch.autograd.grad(losses.sum(), leaves))
        wholes = [
            member.loss_config.weight(batch, member.class_weights) for member, batch in self._seen(members, batches)
        ]
        told, gradients = [], [torch.zeros_like(leaf) for leaf in leaves]
        for pieces in zip(*(parts_of(batch, first.accumulate) for batch in batches), strict=True):
            shares = [
                torch.as_tensor(member.loss_config.weight(part, member.class_weights) / whole)
                for (member, part), whole in zip(self._seen(members, pieces), wholes, strict=True)
            ]
            losses, correct = self._forward(members, pieces)
            losses = losses * torch.stack(shares).to(losses)
            torch._foreach_add_(gradients, torch.autograd.grad(losses.sum(), leaves))
            told.append((losses.detach(), correct))
        return tuple(torch.stack(numbers).sum(0) for numbers in zip(*told, strict=True)), gradients

    def _forward(self, members: Sequence[Learner], batches: Tuple) -> Measured:
        if len(batches) == 1:
            logits = self.stack.forward(batches[0].images)
            labels = batches[0].labels
        else:
            of_members = [batch for _, batch in self._seen(members, batches)]
            logits = self.stack.forward(torch.cat([batch.images for batch in of_members]), shared=False)
            labels = torch.stack([batch.labels for batch in of_members])
        losses = losses_of(
            [member.loss_config for member in members],
            logits,
            [batch for _, batch in self._seen(members, batches)],
            members[0].class_weights,
        )
        return losses, (logits.detach().argmax(2) == labels).sum(1)

    def _seen(self, members: Sequence[Learner], batches: Tuple) -> list[tuple[Learner, Batch]]:
        """Each member with the batch that its seed gives it."""
        if len(batches) == 1:
            return [(member, batches[0]) for member in members]
        streams = [self._stream_of[self.seeds[index]] for index in self.active]
        return [(member, batches[stream]) for member, stream in zip(members, streams, strict=True)]

    def _step_apart(self, members: Sequence[Learner], gradients: Sequence[torch.Tensor]) -> None:
        """An optimizer without a stacked update: each member's own makes its step."""
        of_members = zip(*(gradient.unbind(0) for gradient in gradients), strict=True)
        for member, network, own in zip(members, self.stack.networks, of_members, strict=True):
            named = dict(network.named_parameters())
            for name, gradient in zip(self.stack.parameters, own, strict=True):
                named[name].grad = gradient
            member.optimizer.step()
            member.optimizer.zero_grad(set_to_none=True)

    def images_of(self, batch: Any) -> int:
        return super().images_of(_tuple(batch)[0])

    def book(self, first_step: int, told: torch.Tensor, sizes: list[int], seconds: float) -> None:
        """The same for each member; ``told`` is [loss, right answers and perhaps norm; steps; members]."""
        share = seconds / len(self.active)
        for learner, numbers in zip(self._members, told.permute(2, 0, 1).tolist(), strict=True):
            losses, correct, *norms = numbers
            learner.ledger.count(first_step, losses, correct, norms[0] if norms else [], sizes, share)
        self._dismiss()

    def _dismiss(self) -> None:
        """Let members leave whose training is over."""
        staying = [place for place, learner in enumerate(self._members) if not self.is_over(learner)]
        if len(staying) == len(self.active):
            return
        self._settle()
        self._leaving += [learner for place, learner in enumerate(self._members) if place not in staying]
        if not staying:
            self._stop()
            return
        for learner in self._leaving:
            learner.random = _Kept(learner.random.state())
        self.active = [self.active[place] for place in staying]
        self.stack.keep(staying)
        if self.update is not None:
            self.update.keep(staying, self.stack.flat)

    def on_train_batch_end(self, *args: Any) -> None:
        leaving, self._leaving = self._leaving, []
        for learner in leaving:
            self._left(learner)

    on_validation_end = on_train_batch_end

    def _settle(self) -> None:
        """Bring what the optimizers know up to date: before a checkpoint."""
        if self.update is not None:
            self.update.synchronise()

    # ---------------------------------------------------------------- evaluation

    def on_validation_epoch_start(self) -> None:
        self._answers, self._labels = [], []
        judged = [member.judged for member in self._members]
        own = all(network is member.model for network, member in zip(judged, self._members, strict=True))
        self._judges = None if own else judged

    def test_step(self, batch: Batch, batch_index: int) -> None:
        judges = self._judges

        def ask(images: torch.Tensor) -> torch.Tensor:
            return self.stack.evaluate(images) if judges is None else torch.stack([each(images) for each in judges])

        self._answers.append(answers(ask, batch.images, self.learner.views))
        self._labels.append(batch.labels)

    def on_validation_epoch_end(self) -> None:
        if self.interruption():
            self._stop()
            return
        for learner, (logits, labels) in zip(self._members, self._answered_by_all(), strict=True):
            learner.validated(logits, labels)
        self._dismiss()

    def on_test_epoch_start(self) -> None:
        self._answers, self._labels = [], []
        tested = self._members
        # Lightning may have moved the networks since the training, and so out of the storage that they shared.
        self.stack = Stack([learner.model for learner in tested], [0] * len(tested))
        self._judges = None

    def on_test_epoch_end(self) -> None:
        for learner, (logits, labels) in zip(self._members, self._answered_by_all(), strict=True):
            learner.tested(logits, labels)

    def _answered_by_all(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        logits, labels = torch.cat(self._answers, dim=1), torch.cat(self._labels)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        return [(own, labels) for own in logits.unbind(0)]


class _OwnGenerator(RandomState):
    """Where a member draws from, as torch's own generators are that of a run alone."""

    def __init__(self, population: Population, learner: Learner) -> None:
        self.population = population
        self.learner = learner

    def state(self) -> dict[str, torch.Tensor]:
        members = [learner is self.learner for learner in self.population._members]
        return {"cpu": self.population.stack.generator_states()[members.index(True)]}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        states = self.population.stack.generator_states()
        members = [learner is self.learner for learner in self.population._members]
        states[members.index(True)] = state["cpu"]
        self.population.stack.load_generator_states(states)


class _Kept(RandomState):
    """Where a member was when it left."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self._state = state

    def state(self) -> dict[str, torch.Tensor]:
        return self._state

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self._state = state


def _tuple(batch: Any) -> Tuple:
    return (batch,) if isinstance(batch, Batch) else batch


def _averages(learner: Learner) -> bool:
    from gradlab.stepping import Step

    return type(learner.averaging) is not Step


def _clip(members: Sequence[Learner], gradients: Sequence[torch.Tensor]) -> Measured:
    """Bring each member's gradients into its bounds; their norms before, where there is a bound of them."""

    def bounds(own: Sequence[float | None]) -> torch.Tensor | None:
        return None if own[0] is None else torch.tensor(own, dtype=torch.float64).to(gradients[0])

    return clip(
        gradients, bounds([member.clip_value for member in members]), bounds([member.clip_norm for member in members])
    )
