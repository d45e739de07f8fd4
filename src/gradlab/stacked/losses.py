"""The losses of a population's members over their stacked logits."""

import functools
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from gradlab.data.device import Batch
from gradlab.losses import CrossEntropy, Loss


def losses_of(
    losses: Sequence[Loss], logits: torch.Tensor, batches: Sequence[Batch], class_weights: torch.Tensor | None
) -> torch.Tensor:
    """Each member's loss, [members].

    Args:
        losses: of the members; of one kind, with numbers of their own.
        logits: [members, batch, classes].
        batches: what each member has seen; members may share one.
        class_weights: of all members, [classes]; or None.
    """
    if all(type(loss) is CrossEntropy for loss in losses):
        smoothing = [loss.label_smoothing for loss in losses]  # type: ignore[attr-defined]
        return _cross_entropies(logits, batches, class_weights, smoothing)
    alone = [
        loss.of(own, batch, class_weights) for loss, own, batch in zip(losses, logits.unbind(0), batches, strict=True)
    ]
    return torch.stack(alone)


def _cross_entropies(
    logits: torch.Tensor, batches: Sequence[Batch], class_weights: torch.Tensor | None, smoothing: Sequence[float]
) -> torch.Tensor:
    log_shares = F.log_softmax(logits, dim=2)
    labels = _stacked([batch.labels for batch in batches])
    if batches[0].others is None or batches[0].share is None:
        told, weight = _of_images(log_shares, labels, class_weights, smoothing)
        return told.sum(1) / weight.sum(1)
    share = _stacked([_given(batch.share) for batch in batches])
    others = _stacked([_given(batch.others) for batch in batches])
    first, first_weight = _of_images(log_shares, labels, class_weights, smoothing)
    second, second_weight = _of_images(log_shares, others, class_weights, smoothing)
    total = (share * first + (1 - share) * second).sum(1)
    return total / (share * first_weight + (1 - share) * second_weight).sum(1)


def _of_images(
    log_shares: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None, smoothing: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss of each image, and its weight; [members, batch]. As torch's ``cross_entropy`` has them."""
    members, batch, classes = log_shares.shape
    labels = labels.expand(members, batch)
    picked = -log_shares.gather(2, labels.unsqueeze(2)).squeeze(2)
    weight = torch.ones_like(picked) if class_weights is None else class_weights[labels]
    told = weight * picked
    if any(smoothing):
        spread = -(log_shares if class_weights is None else log_shares * class_weights).sum(2)
        part = _column(tuple(smoothing), told.dtype, told.device)
        told = (1 - part) * told + spread * (part / classes)
    return told, weight


@functools.lru_cache(maxsize=64)
def _column(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[members, 1]. Kept, because a step that is captured on a GPU can bring nothing there."""
    return torch.tensor(numbers, dtype=torch.float64).to(device, dtype)[:, None]


def _stacked(rows: list[torch.Tensor]) -> torch.Tensor:
    """[members, batch]; or [1, batch] where all members have the same row."""
    return rows[0][None] if all(row is rows[0] for row in rows) else torch.stack(rows)


def _given(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor
