"""Rectangles of pixels."""

import torch


def inside(
    top: torch.Tensor, left: torch.Tensor, bottom: torch.Tensor, right: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Which pixels lie in each image's rectangle, bool [batch, 1, height, width]. ``bottom`` and ``right`` lie outside.

    The sides are numbers [batch]; a rectangle may reach over the edge.
    """
    rows = torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    tall = (rows >= top[:, None]) & (rows < bottom[:, None])
    wide = (columns >= left[:, None]) & (columns < right[:, None])
    return tall[:, None, :, None] & wide[:, None, None, :]


def filled(images: torch.Tensor, hole: torch.Tensor, level: torch.Tensor | int) -> torch.Tensor:
    """Images with ``level`` (one number, or uint8 [channels, 1, 1]) where ``hole``; the type stays."""
    if isinstance(level, int):
        level = torch.full((), level, dtype=images.dtype, device=images.device)
    return replaced(images, hole, level.to(images.dtype))


def replaced(images: torch.Tensor, where: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """``torch.where(where, others, images)``, in a tenth of the time on a CPU: products with 0 and 1, which are exact."""
    return (images * (~where).to(images.dtype)).addcmul_(where.to(images.dtype), others)
