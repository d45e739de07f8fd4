from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.initializers import He, Xavier, initialize
from gradlab.models import MODELS
from gradlab.models.base import ACTIVATIONS, activation
from gradlab.models.cnn import CNN
from gradlab.models.lenet import LeNet
from gradlab.models.logistic import Logistic
from gradlab.models.mlp import MLP
from gradlab.models.resnet import ResNet
from gradlab.models.size import multiply_adds, parameter_count

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "model"


def images_of(channels: int, height: int, width: int, classes: int = 10) -> DataSpec:
    return DataSpec("images", (channels, height, width), tuple(f"class {i}" for i in range(classes)), 100)


MNIST = images_of(1, 28, 28)
SPECS = [
    MNIST,
    images_of(3, 32, 32),
    images_of(1, 28, 20),
    images_of(1, 20, 28, classes=7),
    images_of(2, 13, 12, classes=2),
    images_of(1, 8, 8),
]


def default(name: str) -> Any:
    """The model ``name`` with the numbers of its file."""
    if name == "timm":
        pytest.importorskip("timm")
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert isinstance(values, dict)
    return MODELS[name](**{str(key): value for key, value in values.items()})


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "×".join(map(str, spec.image_shape)))
@pytest.mark.parametrize("name", list(MODELS))
def test_logits_are_one_number_for_each_image_and_class(name: str, spec: DataSpec) -> None:
    chosen = default(name)
    too_small = min(spec.height, spec.width) < {"lenet": 12, "3c3d": 9}.get(name, 0)
    if too_small or (name == "vit" and (spec.height % 4 or spec.width % 4)):
        with pytest.raises(ConfigError):
            chosen.check(spec)
        return
    chosen.check(spec)
    model = chosen.build(spec)
    for batch in (2, 5):  # BatchNorm has no statistics over a single image of one pixel
        assert model(torch.zeros(batch, *spec.image_shape)).shape == (batch, len(spec.classes))


@pytest.mark.parametrize(
    ("depth", "parameters"), [(9, 6_573_120), (18, 11_173_962), (20, 272_474), (56, 855_770), (110, 1_730_714)]
)
def test_resnets_have_the_published_number_of_parameters(depth: int, parameters: int) -> None:
    """ResNet-18 as in kuangliu's pytorch-cifar; 20 to 110 as He et al. with option B; 9 as in Page's ResNet-9."""
    assert parameter_count(ResNet("resnet", depth, width=1).build(images_of(3, 32, 32))) == parameters


def test_a_cnn_of_too_many_stages_is_refused() -> None:
    chosen = CNN("cnn", [8, 8, 8, 8, 8], norm="batch", dropout=0.0, activation="relu")
    with pytest.raises(ConfigError, match="at least 16×16"):
        chosen.check(images_of(1, 8, 8))


@pytest.mark.parametrize("name", list(MODELS))
def test_every_image_is_classified_apart(name: str) -> None:
    """No image of a batch may change another's logits."""
    model = default(name).build(MNIST).double().eval()
    images = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = model(images)
    apart = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, apart)
    assert (together[0] - together[1]).abs().max() > 1e-6


# ------------------------------------------------------------------------- size


@pytest.mark.parametrize(
    ("model", "spec", "parameters", "products"),
    [
        # 784·10 weights and 10 biases
        (Logistic("logistic", "softmax"), MNIST, 7_850, 7_840),
        (Logistic("logistic", "softmax"), images_of(3, 32, 32), 30_730, 30_720),
        (Logistic("logistic", "softmax"), images_of(1, 28, 20, classes=2), 1_122, 1_120),
        # 784·128 + 128, 128·128 + 128, 128·10 + 10
        (MLP("mlp", [128, 128], "relu", 0.0, "softmax"), MNIST, 118_282, 118_016),
        # 64·32 + 32, 32·16 + 16, 16·10 + 10
        (MLP("mlp", [32, 16], "tanh", 0.0, "softmax"), images_of(1, 8, 8), 2_778, 2_720),
        (MLP("mlp", [], "relu", 0.0, "softmax"), images_of(1, 8, 8), 650, 640),
        # 156 + 2,416 + 48,120 + 10,164 + 850; products: 150·28² + 2,400·10² + 400·120 + 120·84 + 84·10
        (LeNet("lenet", "relu"), MNIST, 61_706, 416_520),
        # 456 + 2,416 + 576·120 + 120 + 10,164 + 850; products: 450·32² + 2,400·12² + 576·120 + 10,080 + 840
        (LeNet("lenet", "relu"), images_of(3, 32, 32), 83_126, 886_440),
        # 13×12 is pooled to 6×6, convolved to 2×2 and pooled to 1×1
        # 156 + 2,416 + 16·120 + 120 + 10,164 + 850; products: 150·156 + 2,400·4 + 16·120 + 10,080 + 840
        (LeNet("lenet", "relu"), images_of(1, 13, 12), 15_626, 45_840),
    ],
)
def test_size_is_the_one_computed_by_hand(model: Any, spec: DataSpec, parameters: int, products: int) -> None:
    network = model.build(spec)
    assert parameter_count(network) == parameters
    assert multiply_adds(network, spec) == products


def test_frozen_parameters_do_not_count() -> None:
    network = Logistic("logistic", "softmax").build(MNIST)
    next(network.parameters()).requires_grad_(False)
    assert parameter_count(network) == 10


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        # each of 8 output channels sees 4/2 inputs through 3×3 weights, at 5×5 places
        (nn.Conv2d(4, 8, 3, groups=2, padding=1), (4, 5, 5), 8 * 2 * 9 * 25),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), (4, 6, 6), 8 * 4 * 9 * 9),
        (nn.Conv1d(4, 8, 3), (4, 10), 8 * 4 * 3 * 8),
        (nn.Linear(6, 3), (5, 6), 5 * 6 * 3),
    ],
)
def test_products_of_single_layers(layer: nn.Module, shape: tuple[int, ...], products: int) -> None:
    class Shape:
        image_shape = shape

    assert multiply_adds(nn.Sequential(layer), Shape()) == products  # type: ignore[arg-type]


def test_measuring_a_network_leaves_it_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    multiply_adds(network, MNIST)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


# ------------------------------------------------------------------------ checks


@pytest.mark.parametrize(("height", "width"), [(12, 12), (12, 40), (40, 12)])
def test_lenet_takes_sides_of_twelve(height: int, width: int) -> None:
    spec = images_of(1, height, width)
    chosen = LeNet("lenet", "relu")
    chosen.check(spec)
    assert chosen.build(spec)(torch.zeros(2, 1, height, width)).shape == (2, 10)


@pytest.mark.parametrize(("height", "width"), [(11, 12), (12, 11), (8, 8), (1, 100)])
def test_lenet_refuses_a_side_below_twelve(height: int, width: int) -> None:
    with pytest.raises(ConfigError) as caught:
        LeNet("lenet", "relu").check(images_of(1, height, width))
    assert f"at least 12×12 pixels, and data=images has {height}×{width}" in str(caught.value)


def test_lenet_fits_every_side() -> None:
    for side in range(12, 34):
        assert LeNet("lenet", "relu").build(images_of(1, side, side))(torch.zeros(1, 1, side, side)).shape == (1, 10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_function_of_its_name(name: str) -> None:
    values = torch.linspace(-3, 3, 13)
    assert torch.equal(activation(name)(values), getattr(torch, name)(values))
    for network, times in [
        (MLP("mlp", [4, 4], name, 0.0, "softmax").build(MNIST), 2),
        (LeNet("lenet", name).build(MNIST), 4),
    ]:
        assert [type(layer) for layer in network.children()].count(type(activation(name))) == times


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: MLP("mlp", [0], "relu", 0.0, "softmax"), "hidden"),
        (lambda: MLP("mlp", [8, -1], "relu", 0.0, "softmax"), "hidden"),
        (lambda: MLP("mlp", [8], "rely", 0.0, "softmax"), "activation"),
        (lambda: MLP("mlp", [8], "relu", 1.0, "softmax"), "dropout"),
        (lambda: MLP("mlp", [8], "relu", 0.0, "linear"), "output"),
        (lambda: Logistic("logistic", "hardmax"), "output"),
        (lambda: LeNet("lenet", "gelu"), "activation"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(make: Callable[[], object], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        make()
    assert caught.value.field == field


# --------------------------------------------------------------------- gradients


def gradient_errors(model: nn.Module, spec: DataSpec) -> dict[str, float]:
    """For each parameter, how far backward is from central differences: ‖a − n‖ / (‖a‖ + ‖n‖) over 24 of its numbers."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(4, *spec.image_shape, generator=draws, dtype=torch.float64)
    labels = torch.randint(len(spec.classes), (4,), generator=draws)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

    model.zero_grad()
    loss().backward()
    errors, h = {}, 1e-5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            numbers, chosen = parameter.view(-1), torch.randperm(parameter.numel(), generator=draws)[:24]
            analytic = parameter.grad.view(-1)[chosen]
            numeric = torch.empty_like(analytic)
            for place, index in enumerate(chosen.tolist()):
                value = numbers[index].item()
                numbers[index] = value + h
                above = loss().item()
                numbers[index] = value - h
                numeric[place] = (above - loss().item()) / (2 * h)
                numbers[index] = value
            errors[name] = float((analytic - numeric).norm() / (analytic.norm() + numeric.norm()))
    return errors


SMALL = [
    (Logistic("logistic", "softmax"), images_of(2, 5, 4, classes=3)),
    (MLP("mlp", [7, 6], "tanh", 0.0, "softmax"), images_of(2, 5, 4, classes=3)),
    (LeNet("lenet", "tanh"), images_of(1, 12, 13, classes=3)),
]


def small_network(chosen: Any, spec: DataSpec) -> nn.Module:
    """In float64; every number, biases too, away from 0."""
    model: nn.Module = chosen.build(spec)
    initialize(model, Xavier("xavier", 1.0, "normal"), seed=0)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=draws)
    return model.double()


@pytest.mark.parametrize(("chosen", "spec"), SMALL, ids=lambda value: getattr(value, "name", ""))
def test_gradients_are_those_of_central_differences(chosen: Any, spec: DataSpec) -> None:
    errors = gradient_errors(small_network(chosen, spec), spec)
    assert errors
    assert max(errors.values()) < 1e-7, errors


@pytest.mark.parametrize(("chosen", "spec"), SMALL, ids=lambda value: getattr(value, "name", ""))
def test_the_comparison_sees_a_gradient_that_is_one_percent_off(chosen: Any, spec: DataSpec) -> None:
    for name, parameter in small_network(chosen, spec).named_parameters():
        model = small_network(chosen, spec)
        dict(model.named_parameters())[name].register_hook(lambda gradient: 1.01 * gradient)
        errors = gradient_errors(model, spec)
        assert errors.pop(name) > 1e-3, parameter.shape
        assert max(errors.values(), default=0) < 1e-7


@pytest.mark.parametrize("name", list(MODELS))
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = default(name).build(MNIST)
    initialize(model, He("he", 1.0, "fan_in", "normal"), seed=0)
    images = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(model(images), torch.arange(16) % 10).backward()
    for layer in model.modules():
        for parameter in layer.parameters(recurse=False):
            if not parameter.requires_grad:
                assert parameter.grad is None
                continue
            assert parameter.grad is not None
            # timm's residual blocks begin with a BatchNorm scale of 0 at their end, behind which nothing is felt yet.
            assert (parameter.grad != 0).any() or name == "timm"
