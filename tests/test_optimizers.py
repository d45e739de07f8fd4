"""Every optimizer beside plain torch and beside its formula, written out here."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gradlab.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Momentum, Nesterov

Tensors = list[torch.Tensor]
Update = Callable[[Tensors, Tensors, float], None]

CASES: list[Any] = [
    SGD("sgd", lr=0.05, weight_decay=0.0),
    SGD("sgd", lr=0.05, weight_decay=0.1),
    Momentum("momentum", lr=0.02, momentum=0.9, dampening=0.0, weight_decay=0.0),
    Momentum("momentum", lr=0.02, momentum=0.5, dampening=0.0, weight_decay=0.1),
    Nesterov("nesterov", lr=0.02, momentum=0.9, weight_decay=0.0),
    Nesterov("nesterov", lr=0.02, momentum=0.5, weight_decay=0.1),
    Adam("adam", lr=0.02, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0),
    Adam("adam", lr=0.02, betas=[0.5, 0.9], eps=1e-3, weight_decay=0.1),
    Adam("adam", lr=0.02, betas=[0.0, 0.0], eps=1e-2, weight_decay=0.0),
    AdamW("adamw", lr=0.02, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0),
    AdamW("adamw", lr=0.02, betas=[0.5, 0.9], eps=1e-3, weight_decay=0.1),
]
IDS = [f"{case.name}-{number}" for number, case in enumerate(CASES)]

PLAIN: dict[str, Callable[[Tensors, Any], torch.optim.Optimizer]] = {
    "sgd": lambda w, c: torch.optim.SGD(w, c.lr, weight_decay=c.weight_decay, foreach=False, fused=False),
    "momentum": lambda w, c: torch.optim.SGD(
        w, c.lr, momentum=c.momentum, weight_decay=c.weight_decay, foreach=False, fused=False
    ),
    "nesterov": lambda w, c: torch.optim.SGD(
        w, c.lr, momentum=c.momentum, weight_decay=c.weight_decay, nesterov=True, foreach=False, fused=False
    ),
    "adam": lambda w, c: torch.optim.Adam(
        w, c.lr, betas=tuple(c.betas), eps=c.eps, weight_decay=c.weight_decay, foreach=False, fused=False
    ),
    "adamw": lambda w, c: torch.optim.AdamW(
        w, c.lr, betas=tuple(c.betas), eps=c.eps, weight_decay=c.weight_decay, foreach=False, fused=False
    ),
}


def sgd(c: SGD) -> Update:
    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        for w, g in zip(weights, gradients, strict=True):
            w -= lr * (g + c.weight_decay * w)

    return update


def momentum(c: Momentum) -> Update:
    velocities: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        velocities.extend(torch.zeros_like(w) for w in weights[len(velocities) :])
        for w, g, v in zip(weights, gradients, velocities, strict=True):
            v.copy_(c.momentum * v + g + c.weight_decay * w)
            w -= lr * v

    return update


def nesterov(c: Nesterov) -> Update:
    velocities: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        velocities.extend(torch.zeros_like(w) for w in weights[len(velocities) :])
        for w, g, v in zip(weights, gradients, velocities, strict=True):
            decayed = g + c.weight_decay * w
            v.copy_(c.momentum * v + decayed)
            w -= lr * (decayed + c.momentum * v)

    return update


def adam(c: Adam | AdamW, decoupled: bool = False) -> Update:
    firsts: Tensors = []
    seconds: Tensors = []
    steps = 0

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        nonlocal steps
        steps += 1
        firsts.extend(torch.zeros_like(w) for w in weights[len(firsts) :])
        seconds.extend(torch.zeros_like(w) for w in weights[len(seconds) :])
        for w, g, m, v in zip(weights, gradients, firsts, seconds, strict=True):
            if decoupled:
                w -= lr * c.weight_decay * w
            else:
                g = g + c.weight_decay * w
            m.copy_(c.betas[0] * m + (1 - c.betas[0]) * g)
            v.copy_(c.betas[1] * v + (1 - c.betas[1]) * g * g)
            unbiased_m = m / (1 - c.betas[0] ** steps)
            unbiased_v = v / (1 - c.betas[1] ** steps)
            w -= lr * unbiased_m / (unbiased_v.sqrt() + c.eps)

    return update


FORMULAS: dict[str, Callable[[Any], Update]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": lambda c: adam(c, decoupled=True),
}


def test_every_optimizer_is_compared() -> None:
    """The others are, in test_more_optimizers.py, which asserts that none is left out."""
    assert {case.name for case in CASES} == set(PLAIN) == set(FORMULAS)
    for case in CASES:
        assert OPTIMIZERS[case.name] is type(case)


def draw(seed: int, *shapes: tuple[int, ...]) -> Tensors:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes]


INPUTS, TARGETS = draw(2, (8, 3), (8, 2))


def start() -> Tensors:
    return draw(1, (4, 3), (4,), (2, 4))


def wavy_loss(weights: Tensors) -> torch.Tensor:
    """A small tanh network's squared error, plus a wave: not convex."""
    first, bias, second = weights
    outputs = (INPUTS @ first.T + bias).tanh() @ second.T
    return ((outputs - TARGETS) ** 2).mean() + 0.1 * first.sin().sum()


def learning_rates(base: float, steps: int = 100) -> list[float]:
    """One that changes at every step."""
    return [base * (1 + 0.5 * math.sin(step)) / (1 + step / 50) for step in range(steps)]


def torch_path(weights: Tensors, optimizer: torch.optim.Optimizer, base: float) -> Iterator[torch.Tensor]:
    """The weights after each step, as one vector."""
    for lr in learning_rates(base):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        wavy_loss(weights).backward()
        optimizer.step()
        yield torch.cat([w.detach().flatten() for w in weights])


def our_path(case: Any) -> torch.Tensor:
    weights = [torch.nn.Parameter(w) for w in start()]
    return torch.stack(list(torch_path(list(weights), case.build(iter(weights)), case.lr)))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_hundred_steps_are_those_of_plain_torch(case: Any) -> None:
    weights: Tensors = [torch.nn.Parameter(w) for w in start()]
    plain = torch.stack(list(torch_path(weights, PLAIN[case.name](weights, case), case.lr)))
    torch.testing.assert_close(our_path(case), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_hundred_steps_are_those_of_the_formula(case: Any) -> None:
    weights = start()
    update = FORMULAS[case.name](case)
    path = []
    for lr in learning_rates(case.lr):
        leaves = [w.clone().requires_grad_() for w in weights]
        gradients = list(torch.autograd.grad(wavy_loss(leaves), leaves))
        update(weights, gradients, lr)
        path.append(torch.cat([w.flatten() for w in weights]))
    ours = our_path(case)
    torch.testing.assert_close(ours, torch.stack(path), rtol=0, atol=1e-10)
    assert (ours[-1] - ours[0]).abs().max() > 0.1  # it went somewhere


def test_the_cases_take_different_paths() -> None:
    """What the comparisons above could not tell apart, they would not test."""
    ends = [our_path(case)[-1] for case in CASES]
    same = [(IDS[a], IDS[b]) for a in range(len(ends)) for b in range(a) if (ends[a] - ends[b]).abs().max() < 1e-6]
    assert same == [("adamw-9", "adam-6")]  # without weight decay they are one method


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_convex_loss_falls(case: Any) -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    scales = torch.tensor([1.0, 3.0, 0.3])
    optimizer = case.build([weights])
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (scales * (weights - 0.5) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_starts_at_the_base_learning_rate(case: Any) -> None:
    weights = [torch.nn.Parameter(w) for w in start()]
    (group,) = case.build(weights).param_groups
    assert group["lr"] == case.lr
    assert len(group["params"]) == len(weights)
