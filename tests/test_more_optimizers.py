"""The optimizers beyond gradient descent and Adam: beside plain torch where it has them, and beside their formulas."""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

import test_optimizers
from gradlab.classifier import Classifier
from gradlab.config import build_config
from gradlab.errors import FieldError
from gradlab.optimizers import OPTIMIZERS, AdamW
from gradlab.optimizers.muon import hidden_matrices
from gradlab.prepare import lightning_trainer, prepare
from gradlab.tracking.journal import Journal
from test_optimizers import Tensors, Update, learning_rates, start, torch_path, wavy_loss

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "optimizer"
NAMES = ["0.weight", "0.bias", "1.weight"]  # of the parameters that start() draws


def choice(name: str, **changes: Any) -> Any:
    """The optimizer ``name`` with the numbers of its file, but for ``changes``."""
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(values, dict)
    return OPTIMIZERS[name](**{**values, **changes})


CASES: list[Any] = [
    choice("momentum", lr=0.2, momentum=0.9, dampening=0.9),
    choice("momentum", lr=0.05, momentum=0.5, dampening=0.3, weight_decay=0.1),
    choice("nadam", lr=0.02),
    choice("nadam", lr=0.02, betas=[0.5, 0.9], eps=1e-3, momentum_decay=0.1, weight_decay=0.1),
    choice("radam", lr=0.02),
    choice("radam", lr=0.02, betas=[0.5, 0.9], eps=1e-3, weight_decay=0.1),
    choice("adamax", lr=0.02),
    choice("adamax", lr=0.005, betas=[0.5, 0.9], eps=1e-2, weight_decay=0.1),
    choice("rmsprop", lr=0.02),
    choice("rmsprop", lr=0.02, alpha=0.9, eps=1e-3, momentum=0.5, weight_decay=0.1),
    choice("rmsprop", lr=0.02, alpha=0.9, eps=1e-3, centered=True),
    choice("adagrad", lr=0.1),
    choice("adagrad", lr=0.1, initial_accumulator=0.5, eps=1e-3, weight_decay=0.1),
    choice("adadelta", eps=1e-4),
    choice("adadelta", lr=0.7, rho=0.5, eps=1e-3, weight_decay=0.1),
    choice("lion", lr=0.01, weight_decay=0.0),
    choice("lion", lr=0.01, betas=[0.5, 0.8], weight_decay=0.1),
    choice("lamb", lr=0.02, weight_decay=0.0),
    choice("lamb", lr=0.02, betas=[0.5, 0.9], eps=1e-3, weight_decay=0.1),
    choice("muon", adamw_lr=0.01),
    choice("muon", momentum=0.5, nesterov=False, ns_steps=3, weight_decay=0.1, adamw_lr=0.02, adamw_weight_decay=0.3),
]
IDS = [f"{case.name}-{number}" for number, case in enumerate(CASES)]

PLAIN: dict[str, Callable[[Tensors, Any], torch.optim.Optimizer]] = {
    "nadam": lambda w, c: torch.optim.NAdam(
        w, c.lr, tuple(c.betas), c.eps, c.weight_decay, c.momentum_decay, foreach=False
    ),
    "radam": lambda w, c: torch.optim.RAdam(w, c.lr, tuple(c.betas), c.eps, c.weight_decay, foreach=False),
    "adamax": lambda w, c: torch.optim.Adamax(w, c.lr, tuple(c.betas), c.eps, c.weight_decay, foreach=False),
    "rmsprop": lambda w, c: torch.optim.RMSprop(
        w, c.lr, c.alpha, c.eps, c.weight_decay, c.momentum, c.centered, foreach=False
    ),
    "adagrad": lambda w, c: torch.optim.Adagrad(
        w, c.lr, 0, c.weight_decay, c.initial_accumulator, c.eps, foreach=False
    ),
    "adadelta": lambda w, c: torch.optim.Adadelta(w, c.lr, c.rho, c.eps, c.weight_decay, foreach=False),
}


# ------------------------------------------------------------------------------------------------------------ formulas


def kept(memory: Tensors, weights: Tensors, value: float = 0.0) -> Tensors:
    """``memory``, filled at the first step with a tensor for each weight."""
    memory.extend(torch.full_like(w, value) for w in weights[len(memory) :])
    return memory


def momentum(c: Any) -> Update:
    velocities: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        for w, g, v in zip(weights, gradients, kept(velocities, weights), strict=True):
            v.copy_(c.momentum * v + (1 - c.dampening) * (g + c.weight_decay * w))
            w -= lr * v

    return update


def nadam(c: Any) -> Update:
    firsts: Tensors = []
    seconds: Tensors = []
    t = 0
    product = torch.tensor(1.0)  # torch keeps it in float32

    def mu(step: int) -> float:
        rise: float = 1 - 0.5 * 0.96 ** (step * c.momentum_decay)
        return float(c.betas[0] * rise)

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        nonlocal t, product
        t += 1
        product = product * mu(t)
        now, after = product.item(), product.item() * mu(t + 1)
        for w, g, m, v in zip(weights, gradients, kept(firsts, weights), kept(seconds, weights), strict=True):
            g = g + c.weight_decay * w
            m.copy_(c.betas[0] * m + (1 - c.betas[0]) * g)
            v.copy_(c.betas[1] * v + (1 - c.betas[1]) * g * g)
            mean = mu(t + 1) * m / (1 - after) + (1 - mu(t)) * g / (1 - now)
            w -= lr * mean / ((v / (1 - c.betas[1] ** t)).sqrt() + c.eps)

    return update


def radam(c: Any) -> Update:
    firsts: Tensors = []
    seconds: Tensors = []
    t = 0

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        nonlocal t
        t += 1
        beta1, beta2 = c.betas
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        for w, g, m, v in zip(weights, gradients, kept(firsts, weights), kept(seconds, weights), strict=True):
            g = g + c.weight_decay * w
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g * g)
            step = m / (1 - beta1**t)
            if length > 5:
                rectification = math.sqrt(
                    (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                )
                # eps joins the root before its bias correction, in torch.
                step = rectification * step * math.sqrt(1 - beta2**t) / (v.sqrt() + c.eps)
            w -= lr * step

    return update


def adamax(c: Any) -> Update:
    firsts: Tensors = []
    largest: Tensors = []
    t = 0

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        nonlocal t
        t += 1
        for w, g, m, u in zip(weights, gradients, kept(firsts, weights), kept(largest, weights), strict=True):
            g = g + c.weight_decay * w
            m.copy_(c.betas[0] * m + (1 - c.betas[0]) * g)
            u.copy_(torch.maximum(c.betas[1] * u, g.abs() + c.eps))
            w -= lr / (1 - c.betas[0] ** t) * m / u

    return update


def rmsprop(c: Any) -> Update:
    squares: Tensors = []
    means: Tensors = []
    velocities: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        memories = (kept(squares, weights), kept(means, weights), kept(velocities, weights))
        for w, g, s, mean, v in zip(weights, gradients, *memories, strict=True):
            g = g + c.weight_decay * w
            s.copy_(c.alpha * s + (1 - c.alpha) * g * g)
            mean.copy_(c.alpha * mean + (1 - c.alpha) * g)
            spread = s - mean**2 if c.centered else s
            v.copy_(c.momentum * v + g / (spread.sqrt() + c.eps))
            w -= lr * v

    return update


def adagrad(c: Any) -> Update:
    sums: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        for w, g, s in zip(weights, gradients, kept(sums, weights, c.initial_accumulator), strict=True):
            g = g + c.weight_decay * w
            s += g * g
            w -= lr * g / (s.sqrt() + c.eps)

    return update


def adadelta(c: Any) -> Update:
    squares: Tensors = []
    changes: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        for w, g, s, u in zip(weights, gradients, kept(squares, weights), kept(changes, weights), strict=True):
            g = g + c.weight_decay * w
            s.copy_(c.rho * s + (1 - c.rho) * g * g)
            change = (u + c.eps).sqrt() / (s + c.eps).sqrt() * g
            u.copy_(c.rho * u + (1 - c.rho) * change * change)
            w -= lr * change

    return update


def lion(c: Any) -> Update:
    momenta: Tensors = []

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        for w, g, m in zip(weights, gradients, kept(momenta, weights), strict=True):
            w -= lr * ((c.betas[0] * m + (1 - c.betas[0]) * g).sign() + c.weight_decay * w)
            m.copy_(c.betas[1] * m + (1 - c.betas[1]) * g)

    return update


def lamb(c: Any) -> Update:
    firsts: Tensors = []
    seconds: Tensors = []
    t = 0

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        nonlocal t
        t += 1
        for w, g, m, v in zip(weights, gradients, kept(firsts, weights), kept(seconds, weights), strict=True):
            m.copy_(c.betas[0] * m + (1 - c.betas[0]) * g)
            v.copy_(c.betas[1] * v + (1 - c.betas[1]) * g * g)
            u = m / (1 - c.betas[0] ** t) / ((v / (1 - c.betas[1] ** t)).sqrt() + c.eps) + c.weight_decay * w
            sizes = math.sqrt((w**2).sum().item()), math.sqrt((u**2).sum().item())
            w -= lr * (sizes[0] / sizes[1] if min(sizes) > 0 else 1.0) * u

    return update


def newton_schulz(g: torch.Tensor, steps: int) -> torch.Tensor:
    """Keller Jordan's quintic, applied to the singular values themselves."""
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    s = s / ((s**2).sum().sqrt() + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    near_orthogonal: torch.Tensor = u @ s.diag() @ vh
    return near_orthogonal


def muon(c: Any) -> Update:
    """Of the three parameters of start(), Muon has the first: the second is a bias, the third the final layer."""
    momenta: Tensors = []
    adamw = test_optimizers.adam(
        AdamW("adamw", c.adamw_lr, c.adamw_betas, c.adamw_eps, c.adamw_weight_decay), decoupled=True
    )

    def update(weights: Tensors, gradients: Tensors, lr: float) -> None:
        w, g = weights[0], gradients[0]
        (m,) = kept(momenta, [w])
        m.copy_(c.momentum * m + (1 - c.momentum) * g)
        u = c.momentum * m + (1 - c.momentum) * g if c.nesterov else m
        scale = math.sqrt(max(1, w.shape[0] / w.shape[1]))
        w -= lr * c.weight_decay * w + lr * scale * newton_schulz(u, c.ns_steps)
        adamw(weights[1:], gradients[1:], lr * c.adamw_lr / c.lr)

    return update


FORMULAS: dict[str, Callable[[Any], Update]] = {
    "momentum": momentum,
    "nadam": nadam,
    "radam": radam,
    "adamax": adamax,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "lion": lion,
    "lamb": lamb,
    "muon": muon,
}


def test_every_optimizer_is_compared() -> None:
    assert {case.name for case in CASES} == set(FORMULAS)
    elsewhere = {"schedule_free_sgd", "schedule_free_adamw", "timm"}  # test_schedule_free.py, test_timm.py
    assert set(FORMULAS) | set(test_optimizers.FORMULAS) | elsewhere == set(OPTIMIZERS)


def our_path(case: Any) -> torch.Tensor:
    """The weights after each of a hundred steps; a group whose base rate differs is scaled by the same factor."""
    weights = [nn.Parameter(w) for w in start()]
    optimizer = case.build(zip(NAMES, weights, strict=True))
    bases = [group["lr"] for group in optimizer.param_groups]
    path = []
    for lr in learning_rates(case.lr):
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * (lr / case.lr)
        optimizer.zero_grad()
        wavy_loss(list(weights)).backward()
        optimizer.step()
        path.append(torch.cat([w.detach().flatten() for w in weights]))
    return torch.stack(path)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in PLAIN], ids=[i for i in IDS if i.split("-")[0] in PLAIN]
)
def test_a_hundred_steps_are_those_of_plain_torch(case: Any) -> None:
    weights: Tensors = [nn.Parameter(w) for w in start()]
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
    ends = [our_path(case)[-1] for case in CASES]
    assert all((ends[a] - ends[b]).abs().max() > 1e-6 for a in range(len(ends)) for b in range(a))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_parameter_without_a_gradient_stays(case: Any) -> None:
    weights = [nn.Parameter(w) for w in start()]
    optimizer = case.build(zip(NAMES, weights, strict=True))
    optimizer.step()  # no gradient at all
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    assert not torch.equal(weights[0], start()[0])
    assert torch.equal(weights[1], start()[1])
    assert torch.equal(weights[2], start()[2])


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_saved_state_goes_on_as_if_nothing_had_been(case: Any) -> None:
    def steps(weights: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            wavy_loss(list(weights)).backward()
            optimizer.step()

    weights = [nn.Parameter(w) for w in start()]
    optimizer = case.build(zip(NAMES, weights, strict=True))
    steps(weights, optimizer)
    others = [nn.Parameter(w.detach().clone()) for w in weights]
    other = case.build(zip(NAMES, others, strict=True))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(weights, optimizer)
    steps(others, other)
    # torch's NAdam keeps a product of its momenta in float32, and loading makes it the weights' float64.
    rounding = 1e-6 if case.name == "nadam" else 0.0
    for mine, its in zip(weights, others, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=rounding)


# ------------------------------------------------------------------------------------------------- what is one's alone


def test_dampening_holds_from_the_first_step() -> None:
    """v = (1 − dampening)·g at once; torch alone would begin with v = g."""
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = choice("momentum", lr=1.0, momentum=0.9, dampening=0.75).build([("w", weight)])
    weight.grad = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    optimizer.step()
    assert weight.tolist() == [-0.25, 0.5, -1.0]


def test_lamb_takes_a_layer_of_zeros_by_adams_step() -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = choice("lamb", lr=0.5, eps=1e-12).build([("w", weight)])
    weight.grad = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, 0.5, 0.0], dtype=torch.float64))


def test_lamb_moves_a_layer_by_lr_times_its_length() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = choice("lamb", lr=0.1).build([("w", weight)])
    weight.grad = torch.tensor([7.0, 0.1], dtype=torch.float64)
    optimizer.step()
    moved = weight.detach() - torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-12)


def named(*shapes: tuple[str, tuple[int, ...]]) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in shapes]


def test_muon_takes_hidden_matrices_only() -> None:
    parameters = named(
        ("position", (1, 5, 8)),
        ("patch_embed.weight", (8, 3, 4, 4)),
        ("1.weight", (8, 3, 3, 3)),
        ("1.bias", (8,)),
        ("norm.weight", (8,)),
        ("2.weight", (16, 72)),
        ("head.weight", (10, 16)),
        ("head.bias", (10,)),
    )
    assert hidden_matrices(parameters) == {"1.weight", "2.weight"}
    first, second = choice("muon").build(parameters).param_groups
    assert first["param_names"] == ["1.weight", "2.weight"]
    assert len(second["params"]) == 6
    assert (first["lr"], second["lr"]) == (choice("muon").lr, choice("muon").adamw_lr)


def test_muon_leaves_a_single_layer_to_adamw() -> None:
    chosen = choice("muon")
    (group,) = chosen.build(named(("1.weight", (10, 64)), ("1.bias", (10,)))).param_groups
    assert group["lr"] == chosen.adamw_lr


def test_muons_step_has_singular_values_near_one() -> None:
    """The quintic brings them to 0.7 … 1.2; a tall matrix is scaled by √(rows/columns), a wide one is not."""
    for shape, scale in [((64, 16), 2.0), ((16, 64), 1.0), ((32, 4, 2, 2), math.sqrt(2))]:
        parameters = named(("0.weight", shape), ("1.weight", (2, 2)))
        weight = parameters[0][1]
        before = weight.detach().clone()
        optimizer = choice("muon", lr=1.0, weight_decay=0.0).build(parameters)
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        moved = (before - weight.detach()).flatten(1)
        values = torch.linalg.svdvals(moved) / scale
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muons_step_on_a_convolution_is_that_on_its_matrix() -> None:
    """Whatever the memory format."""
    gradient = torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    formats: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda g: g.flatten(1),
        lambda g: g.clone(),
        lambda g: g.contiguous(memory_format=torch.channels_last),
    ]
    ends = []
    for reshape in formats:
        weight = nn.Parameter(reshape(torch.zeros_like(gradient)))
        optimizer = choice("muon").build([("0.weight", weight), *named(("1.weight", (2, 2)))])
        for _ in range(3):
            weight.grad = reshape(gradient)
            optimizer.step()
        ends.append(weight.detach().flatten(1))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(ends[2], ends[0], rtol=0, atol=1e-12)


def test_muons_step_keeps_its_precision_within_autocast() -> None:
    ends = []
    for within in (True, False):
        weight = nn.Parameter(torch.eye(8, 6))
        optimizer = choice("muon").build([("0.weight", weight), *named(("1.weight", (2, 2)))])
        weight.grad = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(ends[0], ends[1])


def test_muon_is_torchs_up_to_its_bfloat16() -> None:
    ends = []
    gradients = torch.randn(20, 12, 8, generator=torch.Generator().manual_seed(0))
    chosen = choice("muon", lr=0.02)
    for ours in (True, False):
        weight = nn.Parameter(torch.ones(12, 8))
        optimizer = (
            chosen.build([("0.weight", weight), *named(("1.weight", (2, 2)))])
            if ours
            else torch.optim.Muon(
                [weight], lr=chosen.lr, weight_decay=chosen.weight_decay, momentum=chosen.momentum, nesterov=True
            )
        )
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    assert (ends[0] - ends[1]).norm() < 0.02 * (ends[1] - 1).norm()


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("momentum", {"dampening": 1.0}, "dampening"),
        ("momentum", {"dampening": -0.1}, "dampening"),
        ("nadam", {"momentum_decay": -1.0}, "momentum_decay"),
        ("radam", {"betas": [0.9]}, "betas"),
        ("adamax", {"eps": 0.0}, "eps"),
        ("rmsprop", {"alpha": 1.0}, "alpha"),
        ("rmsprop", {"momentum": 1.0}, "momentum"),
        ("adagrad", {"initial_accumulator": -1.0}, "initial_accumulator"),
        ("adadelta", {"rho": 1.0}, "rho"),
        ("lion", {"betas": [0.9, 1.0]}, "betas"),
        ("lamb", {"weight_decay": -1.0}, "weight_decay"),
        ("muon", {"ns_steps": 0}, "ns_steps"),
        ("muon", {"adamw_lr": 0.0}, "adamw_lr"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        choice(name, **changes)
    assert caught.value.field == field


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_number_that_can_be_wrong_is_checked(name: str) -> None:
    chosen = choice(name)
    for field in dataclasses.fields(chosen):
        value = getattr(chosen, field.name)
        if isinstance(value, float):
            with pytest.raises(FieldError):
                choice(name, **{field.name: math.nan})


def test_every_group_follows_the_schedule_from_its_own_base(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = build_config(
        compose("optimizer=muon", "schedule=cosine", "trainer=cpu", "trainer.max_epochs=null", "trainer.max_steps=5")
    )
    journal = Journal(tmp_path / "journal.jsonl")
    prepared = prepare([config], config.data.load(), [journal])
    (learner,) = prepared.learners
    lightning_trainer(config, []).fit(Classifier(learner), datamodule=prepared.data)
    journal.close()
    optimizer = learner.optimizer
    chosen: Any = config.optimizer
    factor = config.schedule.factor(4, config.horizon)
    assert 0 < factor < 1
    assert [group["lr"] for group in optimizer.param_groups] == [chosen.lr * factor, chosen.adamw_lr * factor]
    assert [group["base_lr"] for group in optimizer.param_groups] == [chosen.lr, chosen.adamw_lr]
