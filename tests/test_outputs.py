"""One sigmoid or two softmax outputs; dropout of an MLP; pixels from 0 to 1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from gradlab.config import build_config
from gradlab.data.datasets.base import Examples
from gradlab.data.device import Normalization, Preparation
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.models.logistic import Logistic
from gradlab.models.mlp import MLP

SPEC = DataSpec("pictures", (3, 4, 4), ("cat", "non-cat"), 40)
IMAGES = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(1))


def descend(model: nn.Module, rates: list[float], steps: int = 100) -> tuple[list[float], torch.Tensor]:
    """Full-batch gradient descent, a rate for each parameter: the losses, and the probabilities of the second class."""
    model.double()
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient, rate in zip(model.parameters(), gradients, rates, strict=True):
                parameter.sub_(rate * gradient)
        losses.append(loss.item())
    return losses, model(IMAGES).softmax(1)[:, 1].detach()


def zeroed(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_the_sigmoid_output_is_the_binary_cross_entropy_of_one_unit() -> None:
    network = Logistic("logistic", "sigmoid").build(SPEC).double()
    linear = network[1]  # type: ignore[index]
    assert (linear.in_features, linear.out_features) == (48, 1)
    logits = network(IMAGES)
    z = linear(IMAGES.flatten(1))[:, 0]
    assert torch.equal(logits, torch.stack([torch.zeros_like(z), z], 1))
    torch.testing.assert_close(
        nn.functional.cross_entropy(logits, LABELS),
        nn.functional.binary_cross_entropy_with_logits(z, LABELS.double()),
    )


def test_logistic_regression_with_two_softmax_outputs_descends_alike_at_half_the_rate() -> None:
    one = descend(zeroed(Logistic("logistic", "sigmoid").build(SPEC)), [0.1, 0.1])
    two = descend(zeroed(Logistic("logistic", "softmax").build(SPEC)), [0.05, 0.05])
    np.testing.assert_allclose(one[0], two[0], rtol=1e-12)
    torch.testing.assert_close(one[1], two[1], rtol=1e-10, atol=0)
    same_rate = descend(zeroed(Logistic("logistic", "softmax").build(SPEC)), [0.1, 0.1])
    assert same_rate[0][-1] < one[0][-1] - 0.01


def test_a_deeper_network_needs_the_half_rate_in_its_last_layer_only() -> None:
    one = MLP("mlp", [5], "tanh", 0.0, "sigmoid").build(SPEC)
    two = MLP("mlp", [5], "tanh", 0.0, "softmax").build(SPEC)
    with torch.no_grad():
        for mine, theirs in zip(two.parameters(), one.parameters(), strict=True):
            mine.copy_(theirs if mine.shape == theirs.shape else torch.cat([-theirs / 2, theirs / 2]))
    halved, start = [0.1, 0.1, 0.05, 0.05], {name: tensor.clone() for name, tensor in two.state_dict().items()}
    sigmoid = descend(one, [0.1] * 4)
    np.testing.assert_allclose(descend(two, halved)[0], sigmoid[0], rtol=1e-9)
    two.load_state_dict(start)
    everywhere = descend(two, [0.05] * 4)
    assert abs(everywhere[0][-1] - sigmoid[0][-1]) > 1e-3


@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_one_sigmoid_does_not_tell_ten_classes_apart(model: str, compose: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(compose("data=digits", f"model={model}", "model.output=sigmoid"))
    assert "model.output=sigmoid tells two classes apart, and data=digits has 10" in str(caught.value)
    assert "model.output=softmax" in str(caught.value)


def test_dropout_follows_each_hidden_layer_and_none_is_no_layer() -> None:
    def kinds(dropout: float) -> list[str]:
        return [type(layer).__name__ for layer in MLP("mlp", [6, 5], "relu", dropout, "softmax").build(SPEC).children()]

    assert kinds(0.0) == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert kinds(0.14) == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    network: Any = MLP("mlp", [6, 5], "relu", 0.14, "softmax").build(SPEC)
    assert {layer.p for layer in network if isinstance(layer, nn.Dropout)} == {0.14}


def test_without_normalization_bytes_are_divided_by_255_and_points_are_left_alone() -> None:
    device = torch.device("cpu")
    images = np.arange(0, 256, dtype=np.uint8).reshape(4, 1, 8, 8)
    examples = Examples(images, np.zeros(4, np.int64))
    prepared = Preparation(Normalization.chosen("none", examples), device, torch.float64)
    expected = torch.from_numpy(images).double() / 255
    torch.testing.assert_close(prepared.normalize(torch.from_numpy(images)), expected, rtol=1e-15, atol=0)
    points = Examples(np.array([[[[0.25]], [[-3.0]]]], np.float32), np.zeros(1, np.int64))
    as_they_are = Preparation(Normalization.chosen("none", points), device, torch.float32)
    assert torch.equal(as_they_are.normalize(torch.from_numpy(points.images)), torch.from_numpy(points.images))
    standard = Normalization.chosen("standard", examples)
    assert float(standard.mean) == 127.5
    assert float(standard.std) == pytest.approx(images.std())
