"""The LightningModule of several runs at once: a population, whose members' networks are computed and stepped side by side.

A member is the run that it would be alone: the same start, batches, augmentation, dropout, schedule. What members share is
the work around the arithmetic: one data path, one launch of an operation for all, one process.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gradlab.classifier import Classifier
from gradlab.compiled import not_of_tensors_alone
from gradlab.data.device import Batch
from gradlab.interruption import Interruption
from gradlab.learner import Learner, Measured, parts_of
from gradlab.seeds import RandomState, derive
from gradlab.speed import CAPTURED, COMPILED, EAGER
from gradlab.stacked.clipping import clip
from gradlab.stacked.losses import losses_of
from gradlab.stacked.network import Stack
from gradlab.stacked.updates import update_for
from gradlab.views import answers
from gradlab.whole_step import Batches, Bounds, Masks, Tensors, WholeStep, shapes_of


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
        speed: as ``trainer.speed``. With ``max`` the step is one compiled function, as long as no member has left; but with ``safe``
            it is captured on a GPU.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        seeds: Sequence[int],
        interruption: Interruption | None = None,
        left: Callable[[Learner], None] = lambda learner: None,
        speed: str = "auto",
    ) -> None:
        super().__init__(learners[0], interruption)
        self.compiles = speed == "max"
        self.captures = speed != "safe"
        self.learners = list(learners)
        self.networks = nn.ModuleList(learner.model for learner in learners)
        self.seeds = list(seeds)
        self.obstacle: str | None = None
        """Why steps are eager that were to be captured or compiled, in a few words."""
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
        self._launches = self._can_launch()
        self._whole: WholeStep | None = None
        self._bounds = _bounds(self._members, self.stack.flat)
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
    def steps(self) -> str:
        """How those are made that stay: ``eager``, ``captured`` or ``compiled``."""
        if self._whole is None or not self._launches:
            return EAGER
        return COMPILED if self.compiles else CAPTURED

    @property
    def _members(self) -> list[Learner]:
        return [self.learners[index] for index in self.active]

    def advance(self, step: int, batch: Any) -> Measured:
        members = self._members
        for member in members:
            member.set_rates(step)
        batches = _tuple(batch)
        measured = self._at_once(batches) if self._launches else None
        if measured is None:
            measured, gradients = self._gradients(batches, self._bounds)
            if self.update is not None:
                self.update.step(gradients)
            else:
                self._step_apart(members, gradients)
        if self._averages:
            for member in members:
                member.after_step(step)
        return measured

    def _at_once(self, batches: Batches) -> Measured | None:
        """The step as one launch; None where it was not made, because the batch is short."""
        if self._whole is None or batches[0].images.shape > self._whole.shapes[0]:  # the first may have been short
            assert self.update is not None
            accumulate = self._members[0].accumulate
            self._whole = WholeStep(
                self.stack, self.update, self._gradients, self._bounds, self._passes, accumulate, batches, self.compiles
            )
        if shapes_of(batches) != self._whole.shapes:
            return None
        measured = self._whole(batches)
        self.obstacle = self._whole.obstacle
        self._launches = self.obstacle is None
        return measured

    def _can_launch(self) -> bool:
        if self.obstacle or not (self.compiles or (self.captures and self.stack.flat.is_cuda)):
            return False
        if self.update is None:
            kind = type(self.learner.optimizer).__name__
            self.obstacle = f"the optimizer {kind} steps each member by itself"
        else:
            self.obstacle = not_of_tensors_alone(self.learner)
        return self.obstacle is None

    def _passes(self, batches: Batches) -> list[tuple[torch.Tensor, bool]]:
        """The images of each forward pass of a step, and whether all members share them."""
        accumulate = self._members[0].accumulate
        pieces = [batches]
        if accumulate > 1:
            pieces = list(zip(*(parts_of(batch, accumulate) for batch in batches), strict=True))
        return [self._images(own) for own in pieces]

    def _images(self, batches: Batches) -> tuple[torch.Tensor, bool]:
        if len(batches) == 1:
            return batches[0].images, True
        return torch.cat([batch.images for _, batch in self._seen(self._members, batches)]), False

    def _gradients(
        self,
        batches: Batches,
        bounds: Bounds,
        masks: Masks | None = None,
        tensors: Tensors | None = None,
    ) -> tuple[Measured, list[torch.Tensor]]:
        """See ``whole_step.Gradients``."""
        measured, gradients = self._unbounded(batches, masks, tensors)
        return measured + clip(gradients, *bounds), gradients

    def _unbounded(
        self, batches: Batches, masks: Masks | None, tensors: Tensors | None
    ) -> tuple[Measured, list[torch.Tensor]]:
        members = self._members
        first = members[0]
        own = self.stack.parameters
        leaves = [own[name] if tensors is None else tensors[name] for name in own]
        if first.accumulate == 1:
            losses, correct = self._forward(members, batches, masks, tensors)
            return (losses.detach(), correct), list(torch.autograd.grad(losses.sum(), leaves))
        wholes = [
            member.loss_config.weight(batch, member.class_weights) for member, batch in self._seen(members, batches)
        ]
        told, gradients = [], [torch.zeros_like(leaf) for leaf in leaves]
        for pieces in zip(*(parts_of(batch, first.accumulate) for batch in batches), strict=True):
            shares: list[Any] = [
                member.loss_config.weight(part, member.class_weights) / whole
                for (member, part), whole in zip(self._seen(members, pieces), wholes, strict=True)
            ]
            losses, correct = self._forward(members, pieces, masks, tensors)
            # Without weights of the classes a share is that of the images, and the same number for all.
            losses = losses * (torch.stack(shares).to(losses) if isinstance(shares[0], torch.Tensor) else shares[0])
            torch._foreach_add_(gradients, torch.autograd.grad(losses.sum(), leaves))
            told.append((losses.detach(), correct))
        return tuple(torch.stack(numbers).sum(0) for numbers in zip(*told, strict=True)), gradients

    def _forward(
        self, members: Sequence[Learner], batches: Batches, masks: Masks | None, tensors: Tensors | None
    ) -> Measured:
        images, shared = self._images(batches)
        drawn = self.stack.draw(images, shared) if masks is None else next(masks)
        logits = self.stack.compute(images, drawn, shared, tensors)
        labels = batches[0].labels
        if not shared:
            labels = torch.stack([batch.labels for _, batch in self._seen(members, batches)])
        losses = losses_of(
            [member.loss_config for member in members],
            logits,
            [batch for _, batch in self._seen(members, batches)],
            members[0].class_weights,
        )
        return losses, (logits.detach().argmax(2) == labels).sum(1)

    def _seen(self, members: Sequence[Learner], batches: Batches) -> list[tuple[Learner, Batch]]:
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
        # Those that were made are of where the weights were; and compiled anew for each that leaves they would cost too much.
        self._whole, self.compiles = None, False
        self._launches = self._can_launch()
        self._bounds = _bounds(self._members, self.stack.flat)

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


def _tuple(batch: Any) -> Batches:
    return (batch,) if isinstance(batch, Batch) else batch


def _averages(learner: Learner) -> bool:
    from gradlab.stepping import Step

    return type(learner.averaging) is not Step


def _bounds(members: Sequence[Learner], like: torch.Tensor) -> Bounds:
    """The members' bounds of the gradients' values and of their norms, each [members]; None where there is none."""
    chosen = [[member.clip_value for member in members], [member.clip_norm for member in members]]
    return [None if own[0] is None else torch.tensor(own, dtype=torch.float64).to(like) for own in chosen]
