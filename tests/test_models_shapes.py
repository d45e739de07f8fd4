"""Every registered model on every shape of image: it trains, or says why it cannot; and what a run does to a network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.initializers import Default, initialize
from gradlab.models import MODELS
from gradlab.models.base import StartsFromImages, build_network
from gradlab.models.resnet import ResNet
from gradlab.models.speed import Speed
from gradlab.models.trial import last_batch, try_network
from gradlab.models.vit import ViT
from gradlab.models.wide_resnet import WideResNet
from processes import train
from test_models import default, images_of

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 9, 14), (2, 1, 1), (3, 96, 96), (1, 224, 224)]
SMALL = {  # the defaults are larger than a test needs
    "vit": ViT("vit", 4, 1, 12, 2, 1.0, 0.1, "token"),
    "speed": Speed("speed", [4, 6, 8]),
    "wide_resnet": WideResNet("wide_resnet", 10, 1, 0.1),
    "resnet": ResNet("resnet", 20, 1),
}
LARGE = 3 * 32 * 32  # numbers in an image above which only the small networks are tried
REFUSED = {
    *((name, (2, 1, 1)) for name in ("lenet", "3c3d", "vit", "speed", "cnn", "resnet")),
    *((name, (1, 8, 8)) for name in ("lenet", "3c3d")),
    *((name, (1, 9, 14)) for name in ("lenet", "vit")),
}


def small(name: str) -> Any:
    return SMALL.get(name) or default(name)


def refusal(chosen: Any, spec: DataSpec) -> str | None:
    try:
        chosen.check(spec)
        if spec.pixels <= LARGE:
            try_network(chosen, spec, 32)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "×".join(map(str, shape)))
@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_trains_on_a_shape_or_says_why_not(name: str, shape: tuple[int, int, int]) -> None:
    chosen, spec = small(name), images_of(*shape, classes=3)
    refused = refusal(chosen, spec)
    if refused is not None:
        assert f"{shape[1]}×{shape[2]}" in refused or (spec.planar and "has points" in refused)
        assert "data=images" in refused
        assert (name, shape) in REFUSED
        return
    assert (name, shape) not in REFUSED
    if spec.pixels > LARGE and name in ("2c2d", "torchvision", "timm"):
        return
    network = build_network(chosen, spec, seed=0)
    initialize(network, Default("default"), seed=0)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    if isinstance(network, StartsFromImages):
        network.start_from_images(images)
    network = network.to(memory_format=torch.channels_last).train()
    loss = F.cross_entropy(network(images), torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.isfinite()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", list(MODELS))
def test_channels_last_and_float64_change_no_logits(name: str) -> None:
    chosen, spec = small(name), images_of(3, 32, 32)
    network = build_network(chosen, spec, seed=0).eval()
    images = torch.randn(2, *spec.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(images)
        wide = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(wide, logits, rtol=1e-4, atol=1e-5)
        exact = network.double()(images.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_network_comes_back_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    from gradlab.checkpoints import load_checkpoint, save_checkpoint

    spec = images_of(3, 32, 32)
    one, other = (build_network(small(name), spec, seed).to(memory_format=torch.channels_last) for seed in (0, 1))
    save_checkpoint(tmp_path / "last", dict(one.state_dict()), {})
    tensors, _ = load_checkpoint(tmp_path / "last")
    other.load_state_dict(tensors)
    for name_, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name_], tensor), name_


# ------------------------------------------------------------------------------------------- the last batch of an epoch


@pytest.mark.parametrize(("examples", "batch", "last"), [(100, 32, 4), (100, 33, 1), (100, 50, 50), (7, 1, 1)])
def test_the_last_batch_holds_what_is_left(examples: int, batch: int, last: int) -> None:
    assert last_batch(examples, batch) == last


def spec_of(side: int, examples: int) -> DataSpec:
    return DataSpec("images", (1, side, side), ("a", "b"), examples)


@pytest.mark.parametrize(
    ("chosen", "side", "trains"),
    [
        (ResNet("resnet", 9, 1), 8, False),
        (ResNet("resnet", 18, 1), 8, False),
        (ResNet("resnet", 18, 1), 16, True),
        (ResNet("resnet", 20, 1), 8, True),
        (Speed("speed", [4, 4, 4]), 8, False),
        (Speed("speed", [4, 4, 4]), 17, True),
        (WideResNet("wide_resnet", 10, 1, 0.0), 4, False),
        (WideResNet("wide_resnet", 10, 1, 0.0), 8, True),
    ],
)
def test_one_image_of_one_pixel_is_no_batch_for_batchnorm(chosen: Any, side: int, trains: bool) -> None:
    """As torch itself says, in training; and the message names a batch size that does it."""
    network = build_network(chosen, spec_of(side, 100), seed=0).train()
    alone = torch.zeros(1, 1, side, side)
    if trains:
        network(alone)
        try_network(chosen, spec_of(side, 100), 33)
        return
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(alone)
    with pytest.raises(ConfigError, match=r"in batches of 33, 100 training images leave one .* data.batch_size=34"):
        try_network(chosen, spec_of(side, 100), 33)
    with pytest.raises(ConfigError, match="every batch is one image"):
        try_network(chosen, spec_of(side, 100), 1)
    try_network(chosen, spec_of(side, 100), 34)
    try_network(chosen, spec_of(side, 100), 32)


def test_such_a_batch_size_is_a_wrong_configuration(tmp_path: Path) -> None:
    """1,294 training images in batches of 431 leave one; resnet-9 makes one pixel of 8×8."""
    finished = train(tmp_path, "model=resnet", "data.batch_size=431", "tracking=none")
    assert finished.status == 2, finished.err
    assert "data.batch_size=432" in finished.err
    assert finished.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
