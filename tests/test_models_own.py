"""speed, vit, 2c2d, 3c3d and wide_resnet: published sizes, their own initialisation, and what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlab.data.datasets.base import Examples, Splits
from gradlab.data.device import Normalization
from gradlab.data.sample import sample_images
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.initializers import He, initialize
from gradlab.layers import PreActivation, SamePool
from gradlab.models.base import StartsFromImages, build_network
from gradlab.models.deepobs import ThreeConvolutionsThreeDense, TwoConvolutionsTwoDense
from gradlab.models.networks.speed import SpeedNet
from gradlab.models.networks.vit import Attention
from gradlab.models.size import parameter_count
from gradlab.models.speed import Speed
from gradlab.models.vit import ViT
from gradlab.models.wide_resnet import WideResNet
from test_initializers import assert_moments
from test_models import MNIST, images_of

CIFAR = images_of(3, 32, 32)
TWO, THREE, SPEED = TwoConvolutionsTwoDense("2c2d"), ThreeConvolutionsThreeDense("3c3d"), Speed("speed", [64, 256, 256])


def vit(**changed: Any) -> ViT:
    numbers: dict[str, Any] = {
        "patch": 4,
        "depth": 2,
        "width": 24,
        "heads": 3,
        "mlp_ratio": 2.0,
        "dropout": 0.0,
        "pool": "mean",
    }
    return ViT("vit", **(numbers | changed))


@pytest.mark.parametrize(
    ("chosen", "spec", "parameters"),
    [
        (WideResNet("wide_resnet", 16, 8, 0.0), CIFAR, 10_961_370),  # Zagoruyko and Komodakis' table: 11.0 M
        (WideResNet("wide_resnet", 40, 4, 0.0), CIFAR, 8_949_210),  # 8.9 M
        (WideResNet("wide_resnet", 28, 10, 0.0), CIFAR, 36_479_194),  # 36.5 M
        (TWO, MNIST, 3_274_634),
        (THREE, CIFAR, 895_210),
        (SPEED, CIFAR, 1_971_352),  # and 288 whitening weights and 1,152 scales of BatchNorm that are not trained
        # patches 48·24 + 24, positions 64·24; 2 blocks of norms 4·24, attention 24·72 + 72 + 24·24 + 24, MLP
        # 24·48 + 48 + 48·24 + 24; norm 48, head 24·10 + 10
        (vit(), CIFAR, 1_176 + 1_536 + 2 * (96 + 2_400 + 2_376) + 48 + 250),
        (vit(pool="token"), CIFAR, 1_176 + 1_536 + 24 + 24 + 2 * (96 + 2_400 + 2_376) + 48 + 250),
    ],
)
def test_networks_have_the_published_number_of_parameters(chosen: Any, spec: DataSpec, parameters: int) -> None:
    assert parameter_count(chosen.build(spec)) == parameters


# ----------------------------------------------------------------------------------------------------------- the sample


def splits_of(images: np.ndarray[Any, Any]) -> Splits:
    examples = Examples(images, np.arange(len(images), dtype=np.int64))
    return Splits(examples, examples, examples, "")


def noise(count: int, *shape: int) -> np.ndarray[Any, Any]:
    # Neighbouring pixels alike, as in photographs: patches of plain noise are white already.
    rough = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.float64)
    smooth = (rough + np.roll(rough, 1, -1) + np.roll(rough, 1, -2) + rough[:, ::-1]) / 4
    return smooth.astype(np.uint8)


@pytest.mark.parametrize(("count", "taken"), [(4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))])
def test_a_sample_is_spread_over_the_training_images_and_normalised(count: int, taken: list[int]) -> None:
    splits = splits_of(noise(10, 2, 3, 3))
    normalization = Normalization.of(splits.train)
    sample = sample_images(splits, normalization, count, torch.float64)
    raw = torch.from_numpy(splits.train.images[taken]).double()
    torch.testing.assert_close(sample, (raw - normalization.mean[:, None, None]) / normalization.std[:, None, None])
    assert torch.equal(sample, sample_images(splits, normalization, count, torch.float64))


# ---------------------------------------------------------------------------------------------------------------- speed


@pytest.mark.parametrize("channels", [1, 3])
def test_speed_whitens_patches(channels: int) -> None:
    """Over the patches of the images, its first filters' outputs are uncorrelated and of variance 1."""
    splits = splits_of(noise(200, channels, 10, 10))
    images = sample_images(splits, Normalization.of(splits.train), 200)
    network = build_network(SPEED, images_of(channels, 10, 10), seed=0)
    assert isinstance(network, SpeedNet)
    network.start_from_images(images)
    layer = network.whitening_layer
    half = 4 * channels
    assert layer.weight.shape == (2 * half, channels, 2, 2)
    assert torch.equal(layer.weight[half:], -layer.weight[:half])
    outputs = F.conv2d(images.double(), layer.weight.double()).transpose(0, 1).flatten(1)[:half]
    moments = outputs @ outputs.T / outputs.shape[1]
    assert (moments - moments.diag().diag()).abs().max() < 1e-5
    assert (moments.diag() > 0.9).all()  # below 1 by the 0.0005 that is added to each variance
    assert (moments.diag() < 1.001).all()
    again = build_network(SPEED, images_of(channels, 10, 10), seed=1)
    assert isinstance(again, SpeedNet)
    again.start_from_images(images)
    assert torch.equal(again.whitening_layer.weight, layer.weight)


def test_no_initialiser_and_no_step_touches_the_whitening() -> None:
    network = build_network(SPEED, CIFAR, seed=0)
    weight = network.get_parameter("whitening.weight")
    before = weight.detach().clone()
    initialize(network, He("he", 1.0, "fan_in", "normal"), seed=0)
    assert torch.equal(weight, before)
    assert not weight.requires_grad
    assert isinstance(network, StartsFromImages)
    assert network.get_parameter("whitening.bias").requires_grad


def test_speeds_convolutions_begin_as_the_identity() -> None:
    network = build_network(SPEED, CIFAR, seed=0)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][1:]
    assert [layer.in_channels for layer in convolutions] == [24, 64, 64, 256, 256, 256]
    for layer in convolutions:
        images = torch.randn(2, layer.in_channels, 5, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(layer(images)[:, : layer.in_channels], images)
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert (norm.eps, norm.momentum, norm.weight.requires_grad) == (1e-12, 0.4, False)
        assert (norm.weight == 1).all()


@pytest.mark.parametrize(("widths", "least"), [([8], 1), ([8, 8], 3), ([8, 8, 8], 7), ([8, 8, 8, 8], 15)])
def test_speed_takes_every_size_that_it_says(widths: list[int], least: int) -> None:
    chosen = Speed("speed", widths)
    for side in range(least, least + 5):
        spec = images_of(2, side, side + 3)
        chosen.check(spec)
        assert chosen.build(spec)(torch.zeros(2, *spec.image_shape)).shape == (2, 10)
    with pytest.raises(ConfigError, match=f"at least {least}×{least} pixels"):
        chosen.check(images_of(1, least - 1, 40))


# ------------------------------------------------------------------------------------------------------------------ vit


def test_vit_says_which_patches_would_do() -> None:
    vit(patch=6).check(images_of(1, 12, 18))
    with pytest.raises(ConfigError, match=r"model.patch=5 does not divide the 12×18 .* Sides that do: 1, 2, 3, 6\."):
        vit(patch=5).check(images_of(1, 12, 18))


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_vit_sees_where_a_patch_is_and_all_of_them(pool: str) -> None:
    network = build_network(vit(pool=pool), images_of(1, 8, 8), seed=0).eval()
    images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = network(images)
    logits[0, 0].backward()
    assert images.grad is not None
    assert (images.grad != 0).all()
    moved = images.detach().roll(4, -1)  # whole patches: without positions, the mean over them would be the same
    assert (network(moved) - logits).abs().max() > 1e-3


def test_attention_is_the_softmax_written_out() -> None:
    attention = Attention(6, 2).double()
    tokens = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    query, key, value = attention.query_key_value(tokens).split(6, dim=-1)
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = query[..., head] @ key[..., head].transpose(1, 2) / math.sqrt(3)
        heads.append(scores.softmax(-1) @ value[..., head])
    torch.testing.assert_close(attention(tokens), attention.out(torch.cat(heads, -1)))


@pytest.mark.parametrize("ratio", [2.0, 3.0])
def test_vits_own_initialisation(ratio: float) -> None:
    network = build_network(vit(width=96, mlp_ratio=ratio, depth=1), CIFAR, seed=0)
    own = dict(network.named_parameters())
    hidden = round(96 * ratio)
    assert_moments(own["blocks.0.attention.query_key_value.weight"].detach(), math.sqrt(2 / 192), "uniform")
    assert_moments(own["blocks.0.mlp.0.weight"].detach(), math.sqrt(2 / (96 + hidden)), "uniform")
    assert_moments(own["patch_embedding.weight"].detach(), math.sqrt(1 / 48), "normal")
    assert abs(own["position_embedding"].std() / 0.02 - 1) < 0.1
    assert all((value == 0).all() for name, value in own.items() if name.endswith("bias"))


# -------------------------------------------------------------------------------------------------------------- DeepOBS


def test_2c2ds_own_initialisation() -> None:
    network = build_network(TWO, MNIST, seed=0)
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            assert (value == 0.05).all()
        else:
            assert value.abs().max() <= 0.1
            if value.numel() > 10_000:  # 0.88 of the 0.05 is left when the tails are cut off
                assert abs(value.std() / 0.05 - 0.8796) < 0.01


def test_3c3ds_own_initialisation() -> None:
    own = dict(build_network(THREE, CIFAR, seed=0).named_parameters())
    assert_moments(own["3.weight"].detach(), math.sqrt(2 / (9 * (64 + 96))), "normal")
    assert_moments(own["10.weight"].detach(), math.sqrt(2 / (1152 + 512)), "uniform")
    assert all((value == 0).all() for name, value in own.items() if name.endswith("bias"))


def test_3c3d_fits_every_side_from_nine() -> None:
    for side in range(9, 40):
        spec = images_of(1, side, 50 - side)
        if min(spec.height, spec.width) >= 9:
            THREE.check(spec)
            assert THREE.build(spec)(torch.zeros(1, *spec.image_shape)).shape == (1, 10)
    with pytest.raises(ConfigError, match="at least 9×9"):
        THREE.check(images_of(1, 8, 9))


@pytest.mark.parametrize("size", [2, 3])
def test_same_pooling_is_tensorflows(size: int) -> None:
    """Against its definition: ⌈side / 2⌉ windows, the padding that they lack split, the larger part at the far end."""
    for height in range(1, 10):
        for width in (4, 7):
            images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
            lacking = [max((-(-side // 2) - 1) * 2 + size - side, 0) for side in (width, height)]
            around = [part for each in lacking for part in (each // 2, each - each // 2)]
            padded = F.pad(images, around, value=-math.inf)
            assert torch.equal(SamePool(size)(images), F.max_pool2d(padded, size, 2))


# ---------------------------------------------------------------------------------------------------------- wide_resnet


@pytest.mark.parametrize("depth", [4, 9, 12, 15, 17])
def test_a_wide_resnet_of_another_depth_is_refused(depth: int) -> None:
    with pytest.raises(FieldError, match="6n \\+ 4"):
        WideResNet("wide_resnet", depth, 1, 0.0)


@pytest.mark.parametrize(("channels_out", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_a_pre_activation_block_is_its_formula(channels_out: int, stride: int) -> None:
    block = PreActivation(4, channels_out, stride, dropout=0.5).double().eval()
    images = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    active = block.norm(images).relu()
    one, norm, _, dropout, two = block.body
    assert isinstance(dropout, nn.Dropout)
    carried = images if block.shortcut is None else block.shortcut(active)
    assert (block.shortcut is None) == (channels_out == 4 and stride == 1)
    torch.testing.assert_close(block(images), carried + two(norm(one(active)).relu()))
