"""The losses beside torch's, and beside their definition written out image by image."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from gradlab.data.device import Batch
from gradlab.errors import FieldError
from tiny import choice

SMOOTHINGS = [0.0, 0.1, 0.7]
draws = torch.Generator().manual_seed(0)
IMAGES, CLASSES = 9, 4
LOGITS = 3 * torch.randn(IMAGES, CLASSES, generator=draws, dtype=torch.float64)
LABELS = torch.randint(CLASSES, (IMAGES,), generator=draws)
OTHERS = torch.randint(CLASSES, (IMAGES,), generator=draws)
SHARE = torch.rand(IMAGES, generator=draws, dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.7], dtype=torch.float64)
WEIGHTINGS = [pytest.param(None, id="alike"), pytest.param(WEIGHTS, id="weighted")]
PLAIN = Batch(torch.empty(IMAGES, 1, 2, 2), LABELS)
MIXED = PLAIN._replace(others=OTHERS, share=SHARE)
BATCHES = [pytest.param(PLAIN, id="plain"), pytest.param(MIXED, id="mixed")]


def loss(smoothing: float) -> Any:
    return choice("loss", "cross_entropy", label_smoothing=smoothing)


def by_hand(batch: Batch, class_weights: torch.Tensor | None, smoothing: float) -> float:
    """Sum over images, both labels, and all classes, divided by the sum of the labels' weights."""
    weights = [1.0] * CLASSES if class_weights is None else class_weights.tolist()
    total = divisor = 0.0
    for image in range(len(batch.labels)):
        exponentials = [math.exp(logit) for logit in LOGITS[image].tolist()]
        surprise = [-math.log(value / sum(exponentials)) for value in exponentials]
        labels = [(int(batch.labels[image]), 1.0 if batch.share is None else float(batch.share[image]))]
        if batch.others is not None:
            labels.append((int(batch.others[image]), 1 - labels[0][1]))
        for label, share in labels:
            for k in range(CLASSES):
                target = (1 - smoothing) * (k == label) + smoothing / CLASSES
                total += share * target * weights[k] * surprise[k]
            divisor += share * weights[label]
    return total / divisor


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("class_weights", WEIGHTINGS)
def test_of_plain_labels_it_is_torchs(smoothing: float, class_weights: torch.Tensor | None) -> None:
    torchs = torch.nn.CrossEntropyLoss(class_weights, label_smoothing=smoothing)(LOGITS, LABELS)
    assert torch.equal(loss(smoothing).of(LOGITS, PLAIN, class_weights), torchs)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("class_weights", WEIGHTINGS)
@pytest.mark.parametrize("batch", BATCHES)
def test_it_is_its_definition(batch: Batch, class_weights: torch.Tensor | None, smoothing: float) -> None:
    ours = loss(smoothing).of(LOGITS, batch, class_weights).item()
    assert ours == pytest.approx(by_hand(batch, class_weights, smoothing), rel=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_of_mixed_labels_it_is_torchs_of_the_mixed_distribution(smoothing: float) -> None:
    targets = SHARE[:, None] * F.one_hot(LABELS, CLASSES) + (1 - SHARE)[:, None] * F.one_hot(OTHERS, CLASSES)
    torchs = F.cross_entropy(LOGITS, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss(smoothing).of(LOGITS, MIXED, None), torchs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("class_weights", WEIGHTINGS)
def test_a_mixture_of_one_is_no_mixture(smoothing: float, class_weights: torch.Tensor | None) -> None:
    for share, labels in ((1.0, LABELS), (0.0, OTHERS)):
        mixed = MIXED._replace(share=torch.full((IMAGES,), share, dtype=torch.float64))
        alone = loss(smoothing).of(LOGITS, PLAIN._replace(labels=labels), class_weights)
        torch.testing.assert_close(loss(smoothing).of(LOGITS, mixed, class_weights), alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("class_weights", WEIGHTINGS)
@pytest.mark.parametrize("batch", BATCHES)
def test_means_of_parts_add_up_by_their_weights(batch: Batch, class_weights: torch.Tensor | None) -> None:
    chosen = loss(0.1)
    whole = chosen.of(LOGITS, batch, class_weights)
    total: Any = 0.0
    for part in (slice(0, 2), slice(2, 7), slice(7, 9)):
        piece = Batch(*(None if entry is None else entry[part] for entry in batch))  # type: ignore[arg-type]
        total = total + chosen.weight(piece, class_weights) * chosen.of(LOGITS[part], piece, class_weights)
    torch.testing.assert_close(total / chosen.weight(batch, class_weights), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("class_weights", WEIGHTINGS)
@pytest.mark.parametrize("batch", BATCHES)
def test_its_gradient_is_that_of_the_definition(batch: Batch, class_weights: torch.Tensor | None) -> None:
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(0.1).of(values, batch, class_weights), (logits,))


def test_smoothing_keeps_a_perfect_answer_from_a_loss_of_zero() -> None:
    logits = 50 * F.one_hot(LABELS, CLASSES).double()
    assert loss(0.0).of(logits, PLAIN, None).item() < 1e-12
    assert loss(0.1).of(logits, PLAIN, None).item() > 1


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan, math.inf])
def test_a_wrong_smoothing_is_refused(smoothing: float) -> None:
    with pytest.raises(FieldError, match="label_smoothing"):
        loss(smoothing)
