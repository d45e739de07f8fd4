"""The initialisers beyond zeros, normal, xavier and he: moments within the sampling error of draws with fixed seeds."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.errors import FieldError
from gradlab.initializers import (
    INITIALIZERS,
    Constant,
    Default,
    LeCun,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    initialize,
)
from test_initializers import SHAPES, assert_moments, filled

SHAPES_ONLY = [shape for shape, _, _ in SHAPES]


@pytest.mark.parametrize("shape", SHAPES_ONLY)
@pytest.mark.parametrize("value", [0.5, -0.01, 0.0])
def test_constant_is_its_value(shape: tuple[int, ...], value: float) -> None:
    assert (filled(Constant("constant", value), shape) == value).all()


@pytest.mark.parametrize("shape", SHAPES_ONLY)
@pytest.mark.parametrize("bound", [0.05, 1.0])
def test_uniform_fills_its_bounds(shape: tuple[int, ...], bound: float) -> None:
    assert_moments(filled(Uniform("uniform", bound), shape), bound / math.sqrt(3), "uniform")


@pytest.mark.parametrize("shape", SHAPES_ONLY)
@pytest.mark.parametrize(("std", "cutoff"), [(0.02, 2.0), (1.0, 1.0), (0.5, 3.0)])
def test_truncated_normal_is_a_normal_without_its_tails(shape: tuple[int, ...], std: float, cutoff: float) -> None:
    values = filled(TruncatedNormal("truncated_normal", std, cutoff), shape).double() / std
    n = values.numel()
    assert 0.999 * cutoff < values.abs().max() <= cutoff * (1 + 1e-6)
    # φ(c) and 2Φ(c) − 1: the variance of what is left is 1 − 2cφ(c)/(2Φ(c) − 1)
    density, mass = math.exp(-(cutoff**2) / 2) / math.sqrt(2 * math.pi), math.erf(cutoff / math.sqrt(2))
    left = math.sqrt(1 - 2 * cutoff * density / mass)
    assert abs(values.mean()) < 4 * left / math.sqrt(n)
    assert abs(values.std() / left - 1) < 4 * math.sqrt(2 / (4 * n))
    inner = math.erf(0.5 / math.sqrt(2)) / mass
    assert abs((values.abs() < 0.5).double().mean() - inner) < 4 * math.sqrt(inner * (1 - inner) / n)


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), SHAPES)
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_lecun_has_the_variance_of_its_formula(
    shape: tuple[int, ...], fan_in: int, fan_out: int, distribution: str, gain: float
) -> None:
    assert_moments(filled(LeCun("lecun", gain, distribution), shape), gain / math.sqrt(fan_in), distribution)


def test_lecun_keeps_the_size_of_activations_through_linear_layers() -> None:
    draws = torch.Generator().manual_seed(0)
    activations = torch.randn(256, 512, generator=draws)
    before = activations.square().mean()
    for _ in range(8):
        weight = torch.empty(512, 512)
        LeCun("lecun", 1.0, "normal").fill(weight, draws)
        activations = activations @ weight.T
    assert 0.8 < activations.square().mean() / before < 1.25


@pytest.mark.parametrize("shape", [*SHAPES_ONLY, (200, 300), (64, 64), (8, 3, 3, 3)])
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape: tuple[int, ...], gain: float) -> None:
    matrix = filled(Orthogonal("orthogonal", gain), shape).flatten(1) / gain
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)


def test_orthogonal_matrices_prefer_no_direction() -> None:
    """Their first entries have mean 0 and variance 1/n, over many draws: Haar's measure."""
    firsts = torch.stack([filled(Orthogonal("orthogonal", 1.0), (4, 4), seed)[:, 0] for seed in range(1000)])
    assert firsts.mean(0).abs().max() < 4 * 0.5 / math.sqrt(1000)
    assert (firsts.square().mean(0) - 0.25).abs().max() < 4 * 0.25 / math.sqrt(1000)


# ------------------------------------------------------------------------------------------------------------- default


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 5), nn.BatchNorm2d(64), nn.Conv2d(64, 32, 3, groups=2, bias=False), nn.Linear(400, 300)
    )


def test_default_has_torchs_distribution() -> None:
    """Every parameter of the layers, beside that of fresh ones: equal within the two-sample Kolmogorov-Smirnov bound."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours, fresh = layers(), layers()
    initialize(ours, Default("default"), seed=0)
    for (name, mine), its in zip(ours.named_parameters(), fresh.parameters(), strict=True):
        if name.startswith("1."):  # a norm layer
            assert torch.equal(mine, its)
            continue
        a, b = mine.detach().flatten().sort().values, its.detach().flatten().sort().values
        assert not torch.equal(a, b)
        places = torch.cat([a, b])
        distance = (torch.searchsorted(a, places, right=True) - torch.searchsorted(b, places, right=True)).abs().max()
        assert distance / len(a) < 1.95 * math.sqrt(2 / len(a))
    bound = 1 / math.sqrt(400)
    weight, bias = list(ours.parameters())[-2:]
    assert_moments(weight.detach(), bound / math.sqrt(3), "uniform")
    assert 0.9 * bound < bias.abs().max() <= bound


def test_default_is_bit_for_bit_what_torch_makes_of_the_drawn_seed() -> None:
    layer = nn.Linear(7, 5)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        Default("default").start(layer, draws)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = nn.Linear(7, 5)
    assert torch.equal(layer.weight, fresh.weight)
    assert torch.equal(layer.bias, fresh.bias)


def test_default_layers_of_one_shape_differ() -> None:
    first, second = nn.Linear(20, 20), nn.Linear(20, 20)
    initialize(nn.Sequential(first, second), Default("default"), seed=0)
    assert not torch.equal(first.weight, second.weight)
    assert not torch.equal(first.bias, second.bias)


@pytest.mark.parametrize(
    "initializer",
    [Default("default"), Orthogonal("orthogonal", 1.0), TruncatedNormal("truncated_normal", 1.0, 2.0)],
    ids=lambda initializer: initializer.name,
)
def test_torchs_own_generator_is_neither_read_nor_moved(initializer: Any) -> None:
    with torch.random.fork_rng():
        ends = []
        for own in (1, 2):
            torch.manual_seed(own)
            model = layers()
            before = torch.random.get_rng_state()
            initialize(model, initializer, seed=0)
            assert torch.equal(torch.random.get_rng_state(), before)
            ends.append(model)
    for mine, its in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Constant("constant", math.inf), "value"),
        (lambda: Uniform("uniform", 0.0), "bound"),
        (lambda: TruncatedNormal("truncated_normal", 0.0, 2.0), "std"),
        (lambda: TruncatedNormal("truncated_normal", 1.0, 0.0), "cutoff"),
        (lambda: LeCun("lecun", -1.0, "normal"), "gain"),
        (lambda: LeCun("lecun", 1.0, "gaussian"), "distribution"),
        (lambda: Orthogonal("orthogonal", 0.0), "gain"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(make: Any, field: str) -> None:
    with pytest.raises(FieldError) as caught:
        make()
    assert caught.value.field == field


def test_every_initializer_has_its_test() -> None:
    here = {"constant", "uniform", "truncated_normal", "lecun", "orthogonal", "default"}
    assert here | {"zeros", "normal", "xavier", "he"} == set(INITIALIZERS)
