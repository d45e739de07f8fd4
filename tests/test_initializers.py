"""Moments within the sampling error of draws whose seeds are fixed: these tests cannot fail by chance."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError
from gradlab.initializers import INITIALIZERS, He, Normal, Xavier, Zeros, initialize
from gradlab.layers import is_kept
from gradlab.models import MODELS
from gradlab.models.base import build_network
from gradlab.seeds import generator

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MNIST = DataSpec("mnist", (1, 28, 28), tuple("0123456789"), 54_000)

# shape, fan-in, fan-out: a convolution's are its channels times its kernel's area
SHAPES = [((300, 200), 200, 300), ((96, 32, 5, 3), 32 * 15, 96 * 15)]


def default(axis: str, name: str) -> Any:
    """The choice ``name`` with the numbers of its file."""
    if name == "timm":
        pytest.importorskip("timm")
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / axis / f"{name}.yaml"))
    registry: Any = {"init": INITIALIZERS, "model": MODELS}[axis]
    assert isinstance(values, dict)
    return registry[name](**{str(key): value for key, value in values.items()})


def filled(initializer: Any, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    weight = torch.full(shape, math.nan)
    initializer.fill(weight, generator(seed, "init"))
    return weight


def assert_moments(weight: torch.Tensor, std: float, distribution: str) -> None:
    values, n = weight.double(), weight.numel()
    assert abs(values.mean()) < 4 * std / math.sqrt(n)
    # The error of a standard deviation is √((kurtosis − 1)/4n) of it; the kurtosis is 1.8 and 3.
    kurtosis = {"uniform": 1.8, "normal": 3.0}[distribution]
    assert abs(values.std() / std - 1) < 4 * math.sqrt((kurtosis - 1) / (4 * n))
    if distribution == "uniform":
        bound = math.sqrt(3) * std
        assert 0.999 * bound < values.abs().max() <= bound * (1 + 1e-6)
    else:
        assert values.abs().max() > 3.5 * std
        within = (values.abs() < std).double().mean()
        assert abs(within - 0.6827) < 4 * math.sqrt(0.6827 * 0.3173 / n)


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES)
@pytest.mark.parametrize("std", [0.01, 1.0])
def test_normal_has_its_standard_deviation(shape: tuple[int, ...], fan_in: int, fan_out: int, std: float) -> None:
    assert_moments(filled(Normal("normal", std), shape), std, "normal")


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES)
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_xavier_has_the_variance_of_its_formula(
    shape: tuple[int, ...], fan_in: int, fan_out: int, distribution: str, gain: float
) -> None:
    std = gain * math.sqrt(2 / (fan_in + fan_out))
    assert_moments(filled(Xavier("xavier", gain, distribution), shape), std, distribution)


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES)
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_he_has_the_variance_of_its_formula(
    shape: tuple[int, ...], fan_in: int, fan_out: int, distribution: str, mode: str, gain: float
) -> None:
    std = gain * math.sqrt(2 / {"fan_in": fan_in, "fan_out": fan_out}[mode])
    assert_moments(filled(He("he", gain, mode, distribution), shape), std, distribution)


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES)
def test_zeros_is_zero(shape: tuple[int, ...], fan_in: int, fan_out: int) -> None:
    assert (filled(Zeros("zeros"), shape) == 0).all()


def test_he_keeps_the_size_of_activations_through_relus() -> None:
    draws = torch.Generator().manual_seed(0)
    activations = torch.randn(256, 512, generator=draws)
    before = activations.square().mean()
    for _ in range(8):
        weight = torch.empty(512, 512)
        He("he", 1.0, "fan_in", "normal").fill(weight, draws)
        activations = (activations @ weight.T).relu()
    assert 0.5 < activations.square().mean() / before < 2


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"default"}))  # which leaves a network as it was built
@pytest.mark.parametrize("model_name", list(MODELS))
def test_every_initializer_fills_every_model(name: str, model_name: str) -> None:
    model = default("model", model_name).build(MNIST)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and not is_kept(layer)]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.fill_(math.nan)
    initialize(model, default("init", name), seed=0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    for layer in layers:
        assert (layer.weight != 0).any() == (name != "zeros")
        if layer.bias is not None:
            assert (layer.bias == 0).all()


def network() -> nn.Sequential:
    """Layers of all kinds, with and without biases; every number is 7 until it is initialised."""
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.GroupNorm(2, 8),
        nn.Sequential(nn.Linear(8, 5), nn.LayerNorm(5)),
        nn.Linear(5, 5, bias=False),
    )
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(7)
    return layers


def test_biases_start_at_zero_and_norm_layers_are_left_alone() -> None:
    layers = network()
    initialize(layers, Normal("normal", 0.1), seed=0)
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert (layer.weight != 7).all()
            assert layer.bias is None or (layer.bias == 0).all()
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            assert (layer.weight == 7).all()
            assert (layer.bias == 7).all()


def weights(seed: int, name: str = "he") -> torch.Tensor:
    model = build_network(default("model", "mlp"), MNIST, seed)
    initialize(model, default("init", name), seed)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"zeros", "constant"}))
def test_a_seed_decides_every_bit(name: str) -> None:
    assert torch.equal(weights(3, name), weights(3, name))
    assert not torch.equal(weights(3, name), weights(4, name))
    assert not torch.equal(weights(0, name), weights(1, name))


def test_neighbouring_seeds_are_unrelated() -> None:
    drawn = torch.stack([filled(Normal("normal", 1.0), (50, 400), seed).flatten() for seed in range(8)])
    correlations = torch.corrcoef(drawn) - torch.eye(8)
    assert correlations.abs().max() < 5 / math.sqrt(drawn.shape[1])


def test_layers_of_one_shape_differ() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    initialize(model, Normal("normal", 1.0), seed=0)
    first, second = model.parameters(), list(model.parameters())[2]
    assert not torch.equal(next(first), second)


def test_torchs_own_generator_is_neither_read_nor_moved() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = network()
        before = torch.random.get_rng_state()
        initialize(one, Normal("normal", 1.0), seed=0)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        other = network()
        initialize(other, Normal("normal", 1.0), seed=0)
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Normal("normal", 0.0), "std"),
        (lambda: Normal("normal", math.inf), "std"),
        (lambda: Xavier("xavier", -1.0, "uniform"), "gain"),
        (lambda: Xavier("xavier", 1.0, "gaussian"), "distribution"),
        (lambda: He("he", math.nan, "fan_in", "normal"), "gain"),
        (lambda: He("he", 1.0, "fan_avg", "normal"), "mode"),
        (lambda: He("he", 1.0, "fan_in", "gaussian"), "distribution"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(make: Any, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        make()
    assert caught.value.field == field
