"""Bounds of the gradients of several networks at once."""

from collections.abc import Sequence

import torch


def clip(
    gradients: Sequence[torch.Tensor], values: torch.Tensor | None, norms: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """Bring each member's gradients into its bounds, in place; their norms before, [members], where there is a bound of them.

    Args:
        gradients: of each parameter, [members, *shape].
        values: what no entry may exceed in size, [members]; or None.
        norms: what the norm over all parameters may not exceed, [members]; or None.
    """
    if values is not None:
        for gradient in gradients:
            bound = _column(values, gradient)
            torch.clamp(gradient, -bound, bound, out=gradient)
    if norms is None:
        return ()
    lengths = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    norm = torch.linalg.vector_norm(lengths, dim=0)
    factor = (norms / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in gradients:
        gradient.mul_(_column(factor, gradient))
    return (norm,)


def _column(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``numbers`` [members] so that they go with ``like`` [members, …]."""
    return numbers.view(-1, *(1,) * (like.dim() - 1))
