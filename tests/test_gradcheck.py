"""``gradlab gradcheck``: right gradients agree, a wrong one is found, whoever made it."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.cli import main
from gradlab.gradcheck import check_gradients
from processes import gradlab

IMAGES = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Wrong(torch.autograd.Function):
    """x², whose backward forgets the 2."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(values)
        return values**2

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (values,) = context.saved_tensors
        return torch.mul(gradient, values)


def squared(right: bool) -> tuple[nn.Sequential, Any]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()

    def loss() -> torch.Tensor:
        features = network[0](IMAGES)
        return torch.tanh(network[1](features**2 if right else Wrong.apply(features))).sum()

    return network, loss


def test_right_gradients_agree_to_many_digits_and_nothing_is_changed() -> None:
    network, loss = squared(right=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    checks = check_gradients(loss, list(network.named_parameters()))
    assert [check.name for check in checks] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert all(check.agrees and check.error < 1e-8 for check in checks)
    assert [len(check.probes) for check in checks] == [11, 5, 11, 4]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_wrong_backward_is_found_in_the_layers_before_it_only() -> None:
    network, loss = squared(right=False)
    checks = check_gradients(loss, list(network.named_parameters()), entries=3)
    assert [check.agrees for check in checks] == [False, False, True, True]
    probe = checks[0].worst
    assert probe.numerical == pytest.approx(2 * probe.analytic, rel=1e-6)
    assert checks[0].error == pytest.approx(1 / 3, rel=1e-6)


def test_an_error_in_one_entry_of_many_is_found_along_the_direction() -> None:
    weight = nn.Parameter(torch.ones(2000, dtype=torch.float64))
    weight.register_hook(lambda gradient: gradient + 0.5 * nn.functional.one_hot(torch.tensor(1234), 2000))
    (check,) = check_gradients(lambda: (weight**2).mean(), [("weight", weight)], entries=5)
    assert [probe.agrees for probe in check.probes if probe.where is not None] == [True] * 5
    assert not check.agrees


def test_at_a_kink_a_subgradient_is_right_and_another_value_is_not() -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    (check,) = check_gradients(lambda: torch.relu(weight).sum(), [("weight", weight)])
    assert check.agrees
    assert [probe.kink for probe in check.probes if probe.where is not None] == [True] * 3
    weight.register_hook(lambda gradient: gradient - 0.5)
    (wrong,) = check_gradients(lambda: torch.relu(weight).sum(), [("weight", weight)])
    assert not wrong.agrees


def test_a_step_over_a_kink_is_taken_again_and_shorter() -> None:
    weight = nn.Parameter(torch.full((1,), 3e-6, dtype=torch.float64))
    (check,) = check_gradients(lambda: 7 * torch.relu(weight).sum(), [("weight", weight)])
    assert check.agrees
    assert not any(probe.kink for probe in check.probes)


def test_the_command_checks_a_network_with_everything_that_makes_it_hard(capsys: pytest.CaptureFixture[str]) -> None:
    """BatchNorm, dropout, max-pooling, smoothed labels, class weights."""
    status = main(
        ["gradcheck", "model=cnn", "model.channels=[4,6]", "model.dropout=0.3", "loss.label_smoothing=0.1",
         "data.class_weights=balanced", "--entries", "3", "--images", "12"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert status == 0, out
    assert "cross_entropy over 12 images of digits" in out
    assert "parameters agree; the largest relative error is" in out


def test_the_command_finds_a_planted_error_and_leaves_no_file(tmp_path: Path) -> None:
    done = gradlab(tmp_path, "gradcheck", "data=moons", "model.hidden=[4,3]", "--plant", "3.weight")
    assert done.status == 1, done.out + done.err
    assert "1 of 6 parameters disagree." in done.out
    assert "3.weight: " in done.out
    assert "2 times as much" in done.out
    assert list(tmp_path.iterdir()) == []


def test_the_table_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "data=moons", "model.hidden=[3]", "--plant", "1.bias", "--format", "csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["parameter"], row["agrees"]) for row in rows] == [
        ("1.weight", "true"), ("1.bias", "false"), ("3.weight", "true"), ("3.bias", "true"),
    ]  # fmt: skip
    assert float(rows[1]["relative_error"]) == pytest.approx(1 / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plant", "3.wight"], "Did you mean '3.weight'?"),
        (["trainer.precision=fp32"], "gradients are checked in float64"),
        (["model=mpl"], "Did you mean 'mlp'?"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "data=moons", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
