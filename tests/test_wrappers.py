"""SAM and Lookahead beside loops written out by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlab.classifier import Classifier
from gradlab.errors import FieldError
from tiny import batches, choice, fit, mlp, normed, weights

STEPS = 12
SGD: Any = choice("optimizer", "momentum", lr=0.05, weight_decay=0.01)


def plain_sam(model: nn.Module, rho: float, adaptive: bool, clip: float | None = None) -> list[float]:
    """SAM as the paper's algorithm 1 writes it, with torch's own momentum; the losses at w."""
    optimizer = torch.optim.SGD(model.parameters(), lr=SGD.lr, momentum=SGD.momentum, weight_decay=SGD.weight_decay)
    torch.manual_seed(0)
    model.train()
    losses = []
    for images, labels, *_ in batches(STEPS):
        here = [parameter.detach().clone() for parameter in model.parameters()]
        dice = torch.get_rng_state()
        loss = F.cross_entropy(model(images), labels)
        losses.append(loss.item())
        statistics = copy.deepcopy(dict(model.named_buffers()))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        scales = [w.abs() if adaptive else torch.ones_like(w) for w in here]
        norm = torch.cat([(s * g).flatten() for s, g in zip(scales, gradients, strict=True)]).norm()
        with torch.no_grad():
            for parameter, s, g in zip(model.parameters(), scales, gradients, strict=True):
                parameter.add_(rho * s**2 * g / norm)
        torch.set_rng_state(dice)  # the same dropout
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for parameter, w in zip(model.parameters(), here, strict=True):
                parameter.copy_(w)
            for name, buffer in model.named_buffers():
                buffer.copy_(statistics[name])
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return losses


@pytest.mark.parametrize("network", [mlp, normed])
@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.5, False), (0.5, True)])
def test_sam_is_the_papers(network: Any, rho: float, adaptive: bool) -> None:
    plain = network()
    losses = plain_sam(plain, rho, adaptive)
    module, rows = fit(network(), SGD, STEPS, wrapper=choice("wrapper", "sam", rho=rho, adaptive=adaptive))
    torch.testing.assert_close(weights(module.model), weights(plain), rtol=0, atol=1e-10)
    assert [row["train/loss"] for _, row in rows if "train/loss" in row] == pytest.approx(losses, abs=1e-10)
    without, _ = fit(network(), SGD, STEPS)
    assert (weights(module.model) - weights(without.model)).abs().max() > 1e-4


def test_clipping_takes_the_gradient_uphill() -> None:
    plain = mlp()
    plain_sam(plain, 0.5, False, clip=0.1)
    module, _ = fit(mlp(), SGD, STEPS, wrapper=choice("wrapper", "sam", rho=0.5), clip_norm=0.1)
    torch.testing.assert_close(weights(module.model), weights(plain), rtol=0, atol=1e-10)


def test_sam_of_a_vanishing_radius_is_the_optimizer() -> None:
    module, _ = fit(normed(), SGD, STEPS, wrapper=choice("wrapper", "sam", rho=1e-12))
    without, _ = fit(normed(), SGD, STEPS)
    torch.testing.assert_close(weights(module.model), weights(without.model), rtol=0, atol=1e-9)


def test_sam_counts_a_batch_once_in_batchnorm() -> None:
    module, _ = fit(normed(), SGD, STEPS, wrapper=choice("wrapper", "sam"))
    assert module.model.state_dict()["1.num_batches_tracked"] == STEPS


def test_sam_leaves_a_flat_loss_alone() -> None:
    """A gradient of zero has no direction."""
    from gradlab.stepping import SharpnessAware

    model = nn.Linear(2, 1)
    before = weights(model)
    sam = SharpnessAware(model, 0.1, adaptive=False)
    sam.gradients(lambda: (0 * model(torch.ones(1, 2))).sum().backward())
    assert torch.equal(weights(model), before)
    sam.gradients(lambda: None)  # no gradient at all
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("network", [mlp, normed])
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (3, 0.8), (1, 0.3), (4, 1.0), (50, 0.5)])
def test_lookahead_is_the_papers(network: Any, k: int, alpha: float) -> None:
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=SGD.lr, momentum=SGD.momentum, weight_decay=SGD.weight_decay)
    slow = [parameter.detach().clone() for parameter in plain.parameters()]
    torch.manual_seed(0)
    for number, (images, labels, *_) in enumerate(batches(STEPS), start=1):
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()
        if number % k == 0:
            for index, fast in enumerate(plain.parameters()):
                slow[index] = slow[index] + alpha * (fast.detach() - slow[index])
                fast.data.copy_(slow[index])

    judged: list[torch.Tensor] = []
    module, _ = fit(
        network(),
        SGD,
        STEPS,
        wrapper=choice("wrapper", "lookahead", k=k, alpha=alpha),
        then=lambda module, *_: judged.append(weights(module.learner.judged)),
    )
    torch.testing.assert_close(weights(module.model), weights(plain), rtol=0, atol=1e-10)
    with torch.no_grad():
        for parameter, w in zip(plain.parameters(), slow, strict=True):
            parameter.copy_(w)
    torch.testing.assert_close(judged[0], weights(plain), rtol=0, atol=1e-10)


def test_validation_judges_the_slow_weights() -> None:
    def check(module: Classifier, *_: Any) -> None:
        slow, fast = weights(module.learner.judged), weights(module.model)
        assert not torch.equal(slow, fast)  # twelve steps are two of five and two more
        assert not module.learner.judged.training
        assert module._judged is module.learner.judged

    fit(mlp(), SGD, STEPS, wrapper=choice("wrapper", "lookahead", k=5), then=check)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sam", {"rho": 0.0}),
        ("sam", {"rho": float("nan")}),
        ("lookahead", {"k": 0}),
        ("lookahead", {"alpha": 0.0}),
        ("lookahead", {"alpha": 1.1}),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        choice("wrapper", name, **changes)
    assert caught.value.field == next(iter(changes))
