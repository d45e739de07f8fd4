"""LAMB's step."""

from collections.abc import Callable
from typing import Any

import torch

from gradlab.optimizers.updates.adam import adam_directions


class LAMB(torch.optim.Optimizer):
    """u = m̂/(√v̂ + eps) + weight_decay·w; w ← w − lr·‖w‖/‖u‖·u, each tensor a layer; the ratio is 1 where a norm is 0."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. There is no closure: gradients are there already."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            updates = adam_directions(self.state, weights, group["betas"], group["eps"])
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            weight_norms = torch.stack(list(torch._foreach_norm(weights)))
            update_norms = torch.stack(list(torch._foreach_norm(updates)))
            measured = (weight_norms > 0) & (update_norms > 0)
            # Stays on the device: asking for a norm would make every step wait.
            ratios = torch.where(measured, weight_norms / update_norms, 1.0)
            torch._foreach_mul_(updates, list(ratios.unbind()))
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
