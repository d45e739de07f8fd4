"""What may happen around an optimizer's step: sharpness-aware gradients, slow weights, averages.

Each is a ``Step``: it may change how the gradients of a step are made, do something after the step, and have a network of
its own that is to be judged in place of the one in training. That network is a copy: nothing is swapped in and out of the
network in training, so its bits do not depend on when it is validated.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Measured = TypeVar("Measured")
Tensors = dict[str, torch.Tensor]
Pairs = tuple[list[torch.Tensor], list[torch.Tensor]]


class Step:
    """Nothing around the step; what the others build on."""

    def gradients(self, compute: Callable[[], Measured]) -> Measured:
        """Make the gradients of one step by calling ``compute``, which adds to them; returns what it measured."""
        return compute()

    def after_step(self, steps: int) -> None:
        """The optimizer has made its step number ``steps``, counted from 1."""

    def network(self) -> nn.Module | None:
        """The network to be judged, in evaluation mode, valid until the next step; or None for the one in training."""
        return None

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What a continuation needs: tensors, and numbers for JSON."""
        return {}, {}

    def load(self, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""


class SharpnessAware(Step):
    """SAM's two passes. Adds two copies of the weights, and one of the buffers for as long as a step takes.

    Args:
        model: in training.
        rho, adaptive: see ``wrappers.SAM``.
    """

    def __init__(self, model: nn.Module, rho: float, adaptive: bool) -> None:
        self.rho = rho
        self.adaptive = adaptive
        self._weights: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._kept = [torch.empty_like(weight) for weight in self._weights]
        self._buffers = list(model.buffers())
        self._cuda = sorted({weight.device.index for weight in self._weights if weight.device.type == "cuda"})

    def gradients(self, compute: Callable[[], Measured]) -> Measured:
        with torch.random.fork_rng(self._cuda):  # so that the second pass draws the same dropout
            measured = compute()
        buffers = [buffer.clone() for buffer in self._buffers]
        with torch.no_grad():
            torch._foreach_copy_(self._kept, self._weights)
            self._go_uphill()
        for weight in self._weights:
            weight.grad = None
        compute()
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._kept)  # not subtracted: w + e − e is not always w
            if buffers:
                torch._foreach_copy_(self._buffers, buffers)
        return measured

    def _go_uphill(self) -> None:
        moved = [weight for weight in self._weights if weight.grad is not None]
        ways = [weight.grad for weight in moved if weight.grad is not None]
        if not moved:
            return
        if self.adaptive:
            ways = list(torch._foreach_mul(ways, moved))
        norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(ways))))
        if self.adaptive:
            ways = list(torch._foreach_mul(ways, moved))
        torch._foreach_add_(moved, torch._foreach_mul(ways, self.rho / (norm + 1e-12)))


class SlowWeights(Step):
    """Lookahead's slow weights.

    Args:
        model: in training, whose weights are the fast ones.
        k, alpha: see ``wrappers.Lookahead``.
    """

    def __init__(self, model: nn.Module, k: int, alpha: float) -> None:
        self.k = k
        self.alpha = alpha
        self._slow = frozen_copy(model)
        self._pairs: Pairs = list(self._slow.parameters()), list(model.parameters())
        self._buffers: Pairs = list(self._slow.buffers()), list(model.buffers())

    @torch.no_grad()
    def after_step(self, steps: int) -> None:
        if steps % self.k == 0:
            slow, fast = self._pairs
            torch._foreach_lerp_(slow, fast, self.alpha)
            torch._foreach_copy_(fast, slow)

    def network(self) -> nn.Module:
        if self._buffers[0]:
            torch._foreach_copy_(*self._buffers)
        return self._slow

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        return dict(self.network().state_dict()), {}

    def load(self, tensors: Tensors, numbers: dict[str, Any]) -> None:
        self._slow.load_state_dict(tensors)


class Average(Step):
    """An average of the weights and buffers along the training.

    Args:
        model: in training.
        start: the step after which the weights are the average's beginning.
        every: steps between two weights taken in, counted from ``start``.
        share: of the newest weights in the average, by how many have been taken in with them.
    """

    def __init__(self, model: nn.Module, start: int, every: int, share: Callable[[int], float]) -> None:
        self.start = start
        self.every = every
        self.share = share
        self.taken_in = 0
        self._average = frozen_copy(model)
        pairs = list(zip(_tensors(self._average), _tensors(model), strict=True))
        self._means = [average for average, _ in pairs if average.is_floating_point()]
        self._sources = [source for _, source in pairs if source.is_floating_point()]
        self._counters = [average for average, _ in pairs if not average.is_floating_point()]
        self._counted = [source for _, source in pairs if not source.is_floating_point()]

    @torch.no_grad()
    def after_step(self, steps: int) -> None:
        since = steps - self.start
        if since <= 0:
            self.taken_in = 0  # also of an average that had begun, in a run that has been made longer since
        if since < 0 or since % self.every != 0:
            return
        if since == 0:
            torch._foreach_copy_(self._means, self._sources)
        else:
            self.taken_in += 1
            torch._foreach_lerp_(self._means, self._sources, self.share(self.taken_in))
        if self._counters:
            torch._foreach_copy_(self._counters, self._counted)

    def network(self) -> nn.Module | None:
        return self._average if self.taken_in else None

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        return dict(self._average.state_dict()), {"taken_in": self.taken_in}

    def load(self, tensors: Tensors, numbers: dict[str, Any]) -> None:
        self._average.load_state_dict(tensors)
        self.taken_in = numbers["taken_in"]


class ScheduleFreeAverage(Step):
    """The average x that a schedule-free optimizer keeps between its lines: the network holds y = (1 − β)z + βx.

    The library turns the network's y into x and back, which costs rounding each time; this writes x into a copy.

    Args:
        model: in training.
        optimizer: one of ``schedulefree``, in its training mode.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._average = frozen_copy(model)
        self._pairs = _tensors(self._average), _tensors(model)
        self._of = dict(zip(model.parameters(), self._average.parameters(), strict=True))

    @torch.no_grad()
    def network(self) -> nn.Module:
        torch._foreach_copy_(*self._pairs)
        for group in self._optimizer.param_groups:
            beta = group["betas"][0] if "betas" in group else group["momentum"]
            for parameter in group["params"]:
                if "z" in self._optimizer.state[parameter]:
                    self._of[parameter].lerp_(self._optimizer.state[parameter]["z"], 1 - 1 / beta)
        return self._average

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """For whoever opens the checkpoint: the optimizer's state has all that it needs itself."""
        return dict(self.network().state_dict()), {}


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that is only evaluated."""
    copied = copy.deepcopy(model).requires_grad_(False).eval()
    for module in copied.modules():
        for name, buffer in module.named_buffers(recurse=False):
            # In a population a buffer is a row of all members', and a deep copy takes all of them along.
            setattr(module, name, buffer.clone())
    return copied


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
