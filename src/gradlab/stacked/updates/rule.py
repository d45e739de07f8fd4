"""What an update rule is: the arithmetic of one kind of optimizer, written once for every form of the update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from gradlab.stacked.updates.layout import Entry

Array = npt.NDArray[np.float64]
Number = float | torch.Tensor
"""A number of one member, or those of many: a tensor that broadcasts to the weights."""
Groups = Sequence[Mapping[str, Any]]

LONG_AFTER = torch.tensor(float("inf"), dtype=torch.float32)
"""The number of a step at which a kernel's bias corrections are 1."""


class Rule:
    """How one kind of optimizer moves weights.

    Numbers that follow from learning rates, decays and step counts are made on the host, in float64 as torch makes them
    (``numbers``). ``formula`` is tensors only: with the numbers of one member as floats it makes the calls of torch's own
    implementation; with those of all members as tensors it is one computation for all, which ``torch.compile`` can take.

    Attributes:
        states: names of the tensors of a parameter's state, in the order in which ``formula`` takes them.
        reads: keys of a parameter group, beside ``lr``; ``betas`` gives ``beta1`` and ``beta2``.
        scalars: names of the numbers of a parameter's state, the same for all parameters of a member, with their first value.
        group_scalars: keys of a parameter group that a step changes.
        grouped: names of ``numbers`` that may differ between parameter groups; the others are those of the first group.
        tensorwise: whether ``formula`` must have all columns of a parameter at once, and no other's.
        integer_step: whether the state has its step as an ``int``, and not as a tensor.
        fused_step: whether torch's step counter is that of a fused kernel, float32.
        has_fused: whether ``fused`` is there, and the fastest on the CPU.
    """

    states: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("weight_decay",)
    scalars: ClassVar[Mapping[str, float]] = {"step": 0.0}
    group_scalars: ClassVar[tuple[str, ...]] = ()
    grouped: tuple[str, ...] = ("weight_decay", "minus_lr")
    tensorwise: ClassVar[bool] = False
    integer_step: ClassVar[bool] = False
    fused_step: bool = False
    has_fused: bool = False

    def numbers(self, own: "Host") -> dict[str, Array]:
        """The numbers of the step that ``own`` counts, each broadcasting to [members, groups]. May change ``own``'s scalars."""
        raise NotImplementedError

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        """Make the step, in place.

        Args:
            w: weights, the first dimension counting members, or the columns of one member.
            g: gradients of the same shape, which may be overwritten, unless the rule is tensorwise.
            states: one for each of ``self.states``, of the same shape.
            scratch: memory of the same shape for what lies between, or None to allocate it.
            numbers: floats, or tensors that broadcast to the weights.
        """
        raise NotImplementedError

    def formula_of(self, entry: Entry) -> Callable[..., None]:
        """``formula`` for a tensorwise rule; its tensors are the columns of ``entry``, [members, columns]."""
        return self.formula

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        """Make the step of one member's parameters of one group, as a rule by one kernel of torch.

        Args:
            group: the optimizer's.
            w, g: weights and gradients; these may be overwritten.
            states: for each of ``self.states``, a tensor for each weight.
            step: the number of this step, float32.
            first: whether the member had no state before.
        """
        raise NotImplementedError

    def initial(self, name: str, weights: torch.Tensor) -> torch.Tensor | float:
        """What a state is before the first step: a number, or a tensor like ``weights``."""
        return 0.0

    def present(self, name: str, group: Mapping[str, Any]) -> bool:
        """Whether torch keeps the state ``name`` with these numbers."""
        return True


class Host:
    """The numbers of K members in G parameter groups, on the host.

    Attributes:
        lr: float64 [K, G].
        read: what ``Rule.reads`` asks for, each float64 [K, G].
        scalars: what ``Rule.scalars`` asks for, each [K, 1], in the precision in which torch keeps them.
        group_scalars: what ``Rule.group_scalars`` asks for, each float64 [K, G].
        first: bool [K, 1], whether the member has no state yet.
    """

    def __init__(self) -> None:
        self.lr: Array = np.empty((0, 0))
        self.read: dict[str, Array] = {}
        self.scalars: dict[str, npt.NDArray[Any]] = {}
        self.group_scalars: dict[str, Array] = {}
        self.first: npt.NDArray[np.bool_] = np.empty((0, 1), bool)

    def __getitem__(self, name: str) -> Array:
        return self.read[name]

    @property
    def step(self) -> Array:
        """The number of this step, counted from 1, float64 [K, 1]."""
        return self.scalars["step"].astype(np.float64)

    def unbiased(self, beta: str) -> Array:
        """1 − beta^step."""
        corrected: Array = 1 - self[beta] ** self.step
        return corrected


# Each of these is one call with a float, as torch's own optimizers make it; with tensors it rounds once more at most.


def add_scaled(x: torch.Tensor, y: torch.Tensor, by: Number) -> None:
    """x ← x + by·y."""
    if isinstance(by, torch.Tensor):
        x.addcmul_(y, by)
    else:
        x.add_(y, alpha=by)


def add_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, by: Number) -> None:
    """x ← x + by·a·b."""
    if isinstance(by, torch.Tensor):
        x.addcmul_(a * by, b)
    else:
        x.addcmul_(a, b, value=by)


def add_quotient(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, by: Number) -> None:
    """x ← x + by·a/b."""
    if isinstance(by, torch.Tensor):
        x.addcdiv_(a * by, b)
    else:
        x.addcdiv_(a, b, value=by)


def add_decay(g: torch.Tensor, w: torch.Tensor, weight_decay: Number) -> None:
    """g ← g + weight_decay·w, the gradient of the L2 penalty."""
    if isinstance(weight_decay, torch.Tensor) or weight_decay != 0:
        add_scaled(g, w, weight_decay)


def shrink(w: torch.Tensor, keep: Number) -> None:
    """w ← keep·w, the decoupled decay."""
    if isinstance(keep, torch.Tensor) or keep != 1:
        w.mul_(keep)
