"""Schedule-free optimizers beside the library's own loop, with its switching of modes, and beside the paper's formulas."""

from typing import Any

import pytest
import schedulefree
import torch
from torch.nn import functional as F

from gradlab.errors import ConfigError, FieldError
from tiny import batches, choice, fit, mlp, normed, weights

STEPS = 23
SGD = choice("optimizer", "schedule_free_sgd", lr=0.5, weight_decay=0.01)
ADAMW = choice("optimizer", "schedule_free_adamw", lr=0.05, weight_decay=0.1, betas=[0.8, 0.95])
CASES = [SGD, ADAMW, choice("optimizer", "schedule_free_adamw", r=1.0, weight_lr_power=0.5)]
IDS = ["sgd", "adamw", "adamw-weighted"]


def library(model: torch.nn.Module, case: Any, warmup_steps: int) -> Any:
    numbers = {field: getattr(case, field) for field in ("lr", "weight_decay", "r", "weight_lr_power")}
    if case.name == "schedule_free_sgd":
        return schedulefree.SGDScheduleFree(
            model.parameters(), momentum=case.momentum, warmup_steps=warmup_steps, **numbers
        )
    return schedulefree.AdamWScheduleFree(
        model.parameters(), betas=tuple(case.betas), eps=case.eps, warmup_steps=warmup_steps, **numbers
    )


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("network", [mlp, normed])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_is_the_librarys_loop(case: Any, network: Any, warmup: int) -> None:
    """Bit for bit in training, and in evaluation mode up to rounding. The library's own warm-up is the schedule's."""
    plain = network()
    optimizer = library(plain, case, warmup)
    torch.manual_seed(0)
    plain.train()
    optimizer.train()
    for images, labels, *_ in batches(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()

    judged: list[torch.Tensor] = []
    module, rows = fit(
        network(),
        case,
        STEPS,
        schedule=choice("schedule", "constant", warmup=f"{warmup} steps"),
        then=lambda module, *_: judged.append(weights(module.learner.judged)),
    )
    assert torch.equal(weights(module.model), weights(plain))
    optimizer.eval()
    torch.testing.assert_close(judged[0], weights(plain), rtol=0, atol=1e-12)
    assert (weights(module.model) - judged[0]).abs().max() > 1e-4
    rates = [row["lr"] for _, row in rows if "lr" in row]
    assert rates[:2] == ([case.lr, case.lr] if warmup == 0 else [case.lr * (1 / 7), case.lr * (2 / 7)])


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_is_the_papers_formula(case: Any) -> None:
    """x is the weighted mean of z, written out as such; the gradient is taken at y between them."""
    model = mlp()
    parameters = list(model.parameters())
    z = [parameter.detach().clone() for parameter in parameters]
    x = [parameter.detach().clone() for parameter in parameters]
    seconds = [torch.zeros_like(parameter) for parameter in parameters]
    adam = case.name == "schedule_free_adamw"
    beta = case.betas[0] if adam else case.momentum
    total = 0.0
    for t, (images, labels, *_) in enumerate(batches(STEPS), start=1):
        weight = t**case.r * case.lr**case.weight_lr_power
        total += weight
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                parameter.copy_((1 - beta) * z[index] + beta * x[index])
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters)
        for index, g in enumerate(gradients):
            step = g
            if adam:
                seconds[index] = case.betas[1] * seconds[index] + (1 - case.betas[1]) * g**2
                step = g / ((seconds[index] / (1 - case.betas[1] ** t)).sqrt() + case.eps)
            z[index] = z[index] - case.lr * (step + case.weight_decay * parameters[index].detach())
            x[index] = x[index] + weight / total * (z[index] - x[index])
    judged: list[torch.Tensor] = []
    fit(mlp(), case, STEPS, then=lambda module, *_: judged.append(weights(module.learner.judged)))
    torch.testing.assert_close(judged[0], torch.cat([w.flatten() for w in x]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_when_it_is_validated_changes_no_bit(case: Any) -> None:
    ends = [weights(fit(mlp(), case, STEPS, round_steps=rounds)[0].model) for rounds in (1, 5, STEPS)]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_sam_works_with_it() -> None:
    module, _ = fit(mlp(), SGD, 100, wrapper=choice("wrapper", "sam"))
    assert module.learner.ledger.last_val["val/accuracy"] > 0.8


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (("cosine", "none", "none"), "schedule=cosine would lower"),
        (("plateau", "none", "none"), "schedule=plateau would lower"),
        (("constant", "lookahead", "none"), "wrapper=lookahead would overwrite"),
        (("constant", "none", "ema"), "average an average"),
    ],
)
def test_what_undoes_it_is_refused(others: tuple[str, str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SGD.check(*others)
    SGD.check("constant", "sam", "none")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("schedule_free_sgd", {"momentum": 0.0}),
        ("schedule_free_sgd", {"momentum": 1.0}),
        ("schedule_free_sgd", {"r": -1.0}),
        ("schedule_free_sgd", {"weight_lr_power": -1.0}),
        ("schedule_free_adamw", {"betas": [0.0, 0.9]}),
        ("schedule_free_adamw", {"betas": [0.9, 1.0]}),
        ("schedule_free_adamw", {"betas": [0.9]}),
        ("schedule_free_adamw", {"eps": 0.0}),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        choice("optimizer", name, **changes)
    assert caught.value.field == next(iter(changes))
