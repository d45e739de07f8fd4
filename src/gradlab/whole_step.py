"""A population's optimizer step as one function of tensors, launched at once: captured on a GPU, compiled, or both."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from gradlab import compiled
from gradlab.captured import Captured, Given
from gradlab.cuda import operations
from gradlab.data.device import Batch
from gradlab.learner import Measured
from gradlab.stacked.network import Stack
from gradlab.stacked.updates import Update

Batches = tuple[Batch, ...]
Masks = Iterator[Sequence[torch.Tensor]]
Tensors = dict[str, torch.Tensor]
Bounds = list[torch.Tensor | None]
FIELDS = len(Batch._fields)


class Gradients(Protocol):
    """What makes the members' gradients."""

    def __call__(
        self,
        batches: Batches,
        bounds: Bounds,
        masks: Masks | None = None,
        tensors: Tensors | None = None,
    ) -> tuple[Measured, list[torch.Tensor]]:
        """The members' losses, right answers and norms, each [members], and the gradients of all parameters, [members, …].

        Args:
            batches: one for each different seed.
            bounds: of the gradients' values and norms.
            masks: of dropout, for each forward pass, where they are drawn already.
            tensors: in place of the stack's own parameters and buffers, by their names.
        """


class WholeStep:
    """Makes the steps of a population on batches of one size.

    Args:
        stack, update: of the population. Once members have left, this one is of no use any more.
        gradients: makes them.
        bounds: of the gradients.
        passes: the images of each forward pass of a step, and whether all members share them.
        accumulate: how many passes a step has.
        batches: the first ones, whose shapes are those of all.
        compiles: whether the step is compiled. Capturing follows from the device.
    """

    def __init__(
        self,
        stack: Stack,
        update: Update,
        gradients: Gradients,
        bounds: Bounds,
        passes: Callable[[Batches], list[tuple[torch.Tensor, bool]]],
        accumulate: int,
        batches: Batches,
        compiles: bool,
    ) -> None:
        self.stack = stack
        self.update = update
        self.shapes = shapes_of(batches)
        self.compiles = compiles
        self.obstacle: str | None = None
        """Why steps can be neither captured nor compiled, once one could not."""
        self._gradients = gradients
        self._bounds = bounds
        self._passes = passes
        self._accumulate = accumulate
        self._function: Callable[..., torch.Tensor] | None = None
        self._captured = Captured(self._made) if stack.flat.is_cuda else None
        self._ours = operations.ours(stack.flat.device)

    def __call__(self, batches: Batches) -> Measured:
        """Make the step: as it is where it can be neither captured nor compiled, and ``obstacle`` says why."""
        passes = self._passes(batches) if self.stack.drops else []
        masks = [mask for images, shared in passes for mask in self.stack.draw(images, shared)]
        given: Given = [*(tensor for batch in batches for tensor in batch), *masks]
        self.update.prepare()
        try:
            return tuple(self._made(given) if self._captured is None else self._captured(given))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a library's network can do anything at all, and a compiler fail in any way
            self.obstacle = compiled.refusal("torch.compile" if self.compiles else "a CUDA graph", error)
            return self._as_it_is(given)

    def _made(self, given: Given) -> Measured:
        if not self.compiles:
            return self._as_it_is(given)
        tensors = [*self._own, *(tensor for tensor in given if tensor is not None)]
        with torch.no_grad():
            if self._function is None:
                places = [tensor is not None for tensor in given]
                self._function = compiled.traced_and_compiled(lambda *all_: self._of_tensors(all_, places), tensors)
            return self._function(*tensors).unbind(0)

    @property
    def _own(self) -> list[torch.Tensor]:
        """What the step reads and changes beside what it is given."""
        bounds = [bound for bound in self._bounds if bound is not None]
        return [self.stack.flat, *self.update.states, *self.update.numbers, *self.stack.buffers.values(), *bounds]

    def _of_tensors(self, tensors: Sequence[torch.Tensor], places: Sequence[bool]) -> torch.Tensor:
        """The step of ``_own`` and of what is given, which has tensors at ``places``: [losses, right answers, norms; members]."""
        left = iter(tensors)
        flat = next(left)
        states = [next(left) for _ in self.update.states]
        numbers = [next(left) for _ in self.update.numbers]
        buffers = {name: next(left) for name in self.stack.buffers}
        bounds = [None if bound is None else next(left) for bound in self._bounds]
        given = [next(left) if place else None for place in places]
        trained = {
            name: layout.view(flat[:, slice(*self.stack.columns[name])]).detach().requires_grad_()
            for name, layout in self.stack.layouts.items()
        }
        batches, masks = self._parted(given)
        with torch.enable_grad(), self._ours:
            measured, gradients = self._gradients(batches, bounds, masks, {**trained, **buffers})
        self.update.formula(flat, gradients, states, numbers)
        return torch.stack([each.double() for each in measured])

    def _as_it_is(self, given: Given) -> Measured:
        batches, masks = self._parted(given)
        with self._ours:
            measured, gradients = self._gradients(batches, self._bounds, masks)
        self.update.formula(self.stack.flat, gradients, self.update.states, self.update.numbers)
        return measured

    def _parted(self, given: Given) -> tuple[Batches, Masks]:
        """The batches, and the masks of each pass."""
        count = FIELDS * len(self.shapes)
        batches = tuple(Batch(*given[start : start + FIELDS]) for start in range(0, count, FIELDS))  # type: ignore[arg-type]
        masks = [mask for mask in given[count:] if mask is not None]
        own = len(masks) // self._accumulate
        return batches, (masks[pass_ * own : (pass_ + 1) * own] for pass_ in range(self._accumulate))


def shapes_of(batches: Batches) -> tuple[torch.Size, ...]:
    return tuple(batch.images.shape for batch in batches)
