"""The initialisers beyond zeros, normal, xavier and he: moments within the sampling error of draws with fixed seeds."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError
from gradlab.initializers import (
    INITIALIZERS,
    LSUV,
    Constant,
    Default,
    LeCun,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    initialize,
)
from gradlab.layers import keep
from gradlab.models.base import build_network
from gradlab.seeds import derive
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


class Layers:
    """A model without an initialisation of its own."""

    name = "layers"

    def check(self, spec: DataSpec) -> None:
        """Takes any image."""

    def build(self, spec: DataSpec) -> nn.Module:
        return layers()


SPEC = DataSpec("images", (3, 9, 9), ("a", "b"), 10)


def test_default_is_bit_for_bit_what_torch_makes_of_the_runs_seed() -> None:
    ours = build_network(Layers(), SPEC, seed=3)
    initialize(ours, Default("default"), seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(derive(3, "init", 1))
        fresh = layers()
    for mine, its in zip(ours.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert_moments(ours[-1].weight.detach(), 1 / math.sqrt(400) / math.sqrt(3), "uniform")  # type: ignore[index]


def test_default_layers_of_one_shape_differ() -> None:
    class Twice(Layers):
        def build(self, spec: DataSpec) -> nn.Module:
            return nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))

    network = build_network(Twice(), SPEC, seed=0)
    first, second = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    assert not torch.equal(first.weight, second.weight)
    assert not torch.equal(first.bias, second.bias)


def test_seeds_build_unlike_networks() -> None:
    one, other = (next(build_network(Layers(), SPEC, seed).parameters()) for seed in (0, 1))
    assert not torch.equal(one, other)


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
            before = torch.random.get_rng_state()
            model = build_network(Layers(), SPEC, seed=0)
            initialize(model, initializer, seed=0)
            assert torch.equal(torch.random.get_rng_state(), before)
            ends.append(model)
    for mine, its in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        assert torch.equal(mine, its)


def test_kept_layers_are_left_alone() -> None:
    model = layers()
    keep(model[2])
    before = model.get_parameter("2.weight").detach().clone()
    initialize(model, Constant("constant", 3.0), seed=0)
    assert torch.equal(model.get_parameter("2.weight"), before)
    assert bool((model.get_parameter("0.weight") == 3).all())


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
    here = {"lsuv", "constant", "uniform", "truncated_normal", "lecun", "orthogonal", "default"}
    assert here | {"zeros", "normal", "xavier", "he"} == set(INITIALIZERS)


# ----------------------------------------------------------------------------------------------------------------- lsuv


def lsuv_network() -> torch.nn.Sequential:
    first, second = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(8 * 36, 20)
    return torch.nn.Sequential(
        first, torch.nn.ReLU(), torch.nn.Flatten(), second, torch.nn.ReLU(), torch.nn.Linear(20, 3)
    )


def some_images() -> torch.Tensor:
    return 3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(5)) + 1


def test_lsuv_makes_the_variance_of_every_layer_one() -> None:
    model, images = lsuv_network(), some_images()
    lsuv = LSUV("lsuv", images=64, tolerance=0.001, max_iterations=10)
    initialize(model, lsuv, seed=0)
    lsuv.calibrate(model, images)
    seen = images
    for layer in model:
        seen = layer(seen)
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            assert abs(seen.double().var(correction=0).item() - 1) < 0.001


def test_lsuv_scales_orthonormal_weights_and_leaves_the_rest() -> None:
    model = lsuv_network()
    lsuv = LSUV("lsuv", images=64, tolerance=0.01, max_iterations=10)
    initialize(model, lsuv, seed=0)
    keep(model[3])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lsuv.calibrate(model, some_images())
    weight = model.get_parameter("0.weight").detach().flatten(1)
    gram = weight @ weight.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(8), rtol=1e-5, atol=1e-5)
    assert torch.equal(model.get_parameter("3.weight"), before["3.weight"])
    assert not torch.equal(model.get_parameter("0.weight"), before["0.weight"])
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before if name.endswith("bias"))
    assert model.training


def test_lsuv_leaves_a_layer_that_nothing_reaches() -> None:
    model = lsuv_network()
    lsuv = LSUV("lsuv", images=64, tolerance=0.01, max_iterations=10)
    initialize(model, lsuv, seed=0)
    lsuv.calibrate(model, torch.zeros(4, 1, 8, 8))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
