"""Losses: what training minimises. Validation and test always report the plain cross-entropy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gradlab.bounds import check_number
from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch

    from gradlab.data.device import Batch


class Loss(Protocol):
    """What every entry of ``LOSSES`` has."""

    @property
    def name(self) -> str: ...

    def of(self, logits: "torch.Tensor", batch: "Batch", class_weights: "torch.Tensor | None") -> "torch.Tensor":
        """The mean loss of a mini-batch, a scalar; ``logits`` are [batch, classes], ``class_weights`` [classes]."""

    def weight(self, batch: "Batch", class_weights: "torch.Tensor | None") -> "torch.Tensor | int":
        """What that mean divides by: the means of a batch's parts add up to the batch's by the shares of their weights."""


LOSSES: Registry[Loss] = Registry("loss")


@LOSSES.register("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the softmax, in nats; of mixed images, that of both labels by their shares.

    With class weights it is the weighted mean: the sum of weight × loss over the sum of weights.

    label_smoothing: share of each target that is spread over all classes, in [0, 1) (Szegedy et al., 2016).
    """

    name: str
    label_smoothing: float

    def __post_init__(self) -> None:
        check_number(self, "label_smoothing", at_least=0, below=1)

    def of(self, logits: "torch.Tensor", batch: "Batch", class_weights: "torch.Tensor | None") -> "torch.Tensor":
        from torch.nn import functional as F

        if batch.others is None or batch.share is None:
            return F.cross_entropy(logits, batch.labels, class_weights, label_smoothing=self.label_smoothing)
        first, second = (
            F.cross_entropy(logits, labels, class_weights, reduction="none", label_smoothing=self.label_smoothing)
            for labels in (batch.labels, batch.others)
        )
        total = (batch.share * first + (1 - batch.share) * second).sum()
        return total / self.weight(batch, class_weights)

    def weight(self, batch: "Batch", class_weights: "torch.Tensor | None") -> "torch.Tensor | int":
        if class_weights is None:
            return len(batch.labels)
        if batch.others is None or batch.share is None:
            return class_weights[batch.labels].sum()
        return (batch.share * class_weights[batch.labels] + (1 - batch.share) * class_weights[batch.others]).sum()
