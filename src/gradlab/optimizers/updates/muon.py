"""Muon's step, and AdamW's for the parameters that Muon does not take."""

from collections.abc import Callable
from typing import Any

import torch

from gradlab.optimizers.updates.adam import adam_directions

# Keller Jordan's: the steepest quintic at 0 whose iterates stay bounded. Five steps bring singular values to 0.7 … 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """About U·Vᵀ for ``matrix`` = U·S·Vᵀ, [rows, columns], by ``steps`` Newton-Schulz iterations, in its own dtype."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)  # the Frobenius norm bounds the largest singular value
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Groups with ``momentum`` take Muon's step, groups with ``betas`` AdamW's.

    Muon: m ← momentum·m + (1 − momentum)·g; u = momentum·m + (1 − momentum)·g with nesterov, else m;
    w ← w − lr·weight_decay·w − lr·√max(1, rows/columns)·orthogonalize(u).
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. There is no closure: gradients are there already."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            if "momentum" in group:
                updates = [self._orthogonal(weight, group) for weight in weights]
            else:
                updates = adam_directions(self.state, weights, group["betas"], group["eps"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _orthogonal(self, weight: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        matrix = update.flatten(1)  # a convolution: [channels out, channels in × kernel area]
        scale: float = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        # A step is made within Lightning's autocast, which would take these products in bfloat16.
        with torch.autocast(weight.device.type, enabled=False):
            orthogonal = orthogonalize(matrix, group["ns_steps"]).view_as(weight)
        return scale * orthogonal
