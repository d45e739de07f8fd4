"""The direction that AdamW and LAMB share: Adam's, before any learning rate."""

from typing import Any

import torch


def adam_directions(
    state: dict[torch.Tensor, Any], weights: list[torch.Tensor], betas: tuple[float, float], eps: float
) -> list[torch.Tensor]:
    """m̂/(√v̂ + eps) of every weight, with its bias correction, in new tensors; the moments in ``state`` move on."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for weight in weights:
        own = state[weight]
        if not own:
            own |= {"step": 0, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        own["step"] += 1
    steps = [state[weight]["step"] for weight in weights]
    firsts = [state[weight]["exp_avg"] for weight in weights]
    seconds = [state[weight]["exp_avg_sq"] for weight in weights]
    torch._foreach_lerp_(firsts, gradients, 1 - betas[0])
    torch._foreach_mul_(seconds, betas[1])
    torch._foreach_addcmul_(seconds, gradients, gradients, 1 - betas[1])
    directions = torch._foreach_div(firsts, [1 - betas[0] ** step for step in steps])
    roots = torch._foreach_div(seconds, [1 - betas[1] ** step for step in steps])
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, eps)
    torch._foreach_div_(directions, roots)
    return list(directions)
