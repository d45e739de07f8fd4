"""Lion and LAMB."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from gradlab.stacked.updates.adam_family import adam_direction, direction_numbers
from gradlab.stacked.updates.rule import Array, Host, Number, Rule, add_scaled, shrink


class Lion(Rule):
    """gradlab.optimizers.updates.lion.Lion."""

    states = ("momentum",)
    reads = ("betas", "weight_decay")
    scalars: ClassVar[Mapping[str, float]] = {}
    grouped = ("keep", "minus_lr")
    has_fused = True

    def numbers(self, own: Host) -> dict[str, Array]:
        return {
            "keep": 1 - own.lr * own["weight_decay"],
            "beta1": own["beta1"],
            "rest2": 1 - own["beta2"],
            "minus_lr": -own.lr,
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        (momentum,) = states
        shrink(w, numbers["keep"])
        add_scaled(w, torch.lerp(g, momentum, numbers["beta1"], out=scratch).sign_(), numbers["minus_lr"])
        momentum.lerp_(g, numbers["rest2"])

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        # No kernel, but so few operations that joining the gradients first would cost more than it saves.
        updates = torch._foreach_lerp(g, states[0], group["betas"][0])
        torch._foreach_sign_(updates)
        torch._foreach_mul_(w, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(w, updates, alpha=-group["lr"])
        torch._foreach_lerp_(states[0], g, 1 - group["betas"][1])


class LAMB(Rule):
    """gradlab.optimizers.updates.lamb.LAMB: norms are those of a member's tensor."""

    states = ("exp_avg", "exp_avg_sq")
    reads = ("betas", "eps", "weight_decay")
    tensorwise = True
    integer_step = True

    def numbers(self, own: Host) -> dict[str, Array]:
        return direction_numbers(own) | {"weight_decay": own["weight_decay"], "minus_lr": -own.lr}

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        update = adam_direction(g, states, numbers)
        add_scaled(update, w, numbers["weight_decay"])
        weight_norm = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        update_norm = torch.linalg.vector_norm(update, dim=1, keepdim=True)
        ratio = torch.where((weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, 1.0)
        add_scaled(w, update.mul_(ratio), numbers["minus_lr"])
