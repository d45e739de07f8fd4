"""Images mixed with others of their batch."""

import functools
from typing import TYPE_CHECKING

import torch

from gradlab.data.augment.operations.boxes import inside, replaced
from gradlab.data.draws import below

if TYPE_CHECKING:
    from gradlab.data.device import Batch

ENTRIES = 1 << 16


def partners(uniforms: torch.Tensor) -> torch.Tensor:
    """For each image the place of another one in the batch, int64 [batch]: the next in the order of ``uniforms``.

    So every image is mixed into exactly one other, and none into itself unless it is alone.
    """
    order = uniforms.argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


@functools.cache
def _beta_table(alpha: float, device: torch.device) -> torch.Tensor:
    import numpy as np
    from scipy.special import betaincinv

    half = betaincinv(alpha, alpha, (np.arange(ENTRIES // 2) + 0.5) / ENTRIES)  # the other half mirrors it
    return torch.from_numpy(np.concatenate([half, 1 - half[::-1]])).to(device, torch.float32)


def beta(alpha: float, uniforms: torch.Tensor) -> torch.Tensor:
    """Beta(alpha, alpha) of uniform numbers, float32: the quantiles in the middle of 65,536 equal parts."""
    return _beta_table(alpha, uniforms.device)[below(ENTRIES, uniforms)]


def blended(batch: "Batch", partner: torch.Tensor, share: torch.Tensor) -> "Batch":
    """``share`` of each image and the rest of its partner; ``share`` is float [batch], in the dtype of the result."""
    images = batch.images.to(share.dtype)
    mixed = images.index_select(0, partner).lerp_(images, share[:, None, None, None])
    return _labelled(batch._replace(images=mixed), partner, share)


def patched(
    batch: "Batch",
    partner: torch.Tensor,
    share: torch.Tensor,
    down: torch.Tensor,
    right: torch.Tensor,
    dtype: torch.dtype,
) -> "Batch":
    """Each image with a box of its partner, about 1 − ``share`` of the area, centred at uniforms (``down``, ``right``)."""
    height, width = batch.images.shape[2:]
    half = 0.5 * (1 - share).sqrt()
    row, column = below(height, down), below(width, right)
    tall, wide = (half * height).long(), (half * width).long()
    box = inside(row - tall, column - wide, row + tall, column + wide, height, width)
    images = replaced(batch.images, box, batch.images.index_select(0, partner))
    remaining = 1 - box.sum((1, 2, 3)).to(dtype) / (height * width)
    return _labelled(batch._replace(images=images), partner, remaining)


def _labelled(batch: "Batch", partner: torch.Tensor, share: torch.Tensor) -> "Batch":
    """With both labels, the one with the larger share first."""
    own, other = batch.labels, batch.labels[partner]
    kept = share >= 0.5
    return batch._replace(
        labels=torch.where(kept, own, other),
        others=torch.where(kept, other, own),
        share=torch.where(kept, share, 1 - share),
    )
