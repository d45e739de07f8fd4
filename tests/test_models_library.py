"""model=torchvision and model=timm: every name, fitted to the data, weights from local files only, frozen parts."""

import importlib.metadata
import logging
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.initializers import Constant, initialize
from gradlab.models import timm as timm_models
from gradlab.models.base import build_network
from gradlab.models.networks.pretrained import with_channels
from gradlab.models.size import multiply_adds, parameter_count
from gradlab.models.timm import Timm
from gradlab.models.torchvision import LEAST_SIDES, NAMES, NAMES_OF, Torchvision
from gradlab.models.trial import try_network
from test_models import images_of

needs_timm = pytest.mark.skipif(not timm_models.names(), reason="timm is not installed: pip install 'gradlab[timm]'")
CIFAR = images_of(3, 32, 32)


def vision(arch: str = "resnet18", pretrained: str | None = None, freeze: Any = "none") -> Torchvision:
    return Torchvision("torchvision", arch, pretrained, freeze)


def images(spec: DataSpec, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *spec.image_shape, generator=torch.Generator().manual_seed(0))


def trains(network: nn.Module, spec: DataSpec) -> None:
    """Forward and backward give finite numbers."""
    logits = network.train()(images(spec))
    assert logits.shape == (2, len(spec.classes))
    logits.square().mean().backward()
    assert logits.isfinite().all()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# ---------------------------------------------------------------------------------------------------------------- names


def test_the_names_are_torchvisions() -> None:
    installed = tuple(int(part) for part in importlib.metadata.version("torchvision").split(".")[:2])
    live = torchvision.models.list_models(module=torchvision.models)
    if installed == NAMES_OF:
        assert list(NAMES) == live
    else:
        assert set(NAMES) <= set(live)


@needs_timm
def test_the_names_are_timms() -> None:
    import timm

    assert sorted(timm_models.names()) == sorted(timm.list_models())


@pytest.mark.parametrize(
    ("make", "near"),
    [
        (lambda: vision("resnt50"), "Did you mean 'resnet50'?"),
        (lambda: vision("vgg"), "Near it are vgg11, vgg11_bn"),
        (lambda: vision(""), "arch names no classification model"),
        pytest.param(lambda: Timm("timm", "convnext_ato", None, "none"), "Did you mean 'convnext_atto'?", marks=needs_timm),
        pytest.param(lambda: Timm("timm", "hf-hub:timm/resnet18", None, "none"), "names no", marks=needs_timm),
    ],
)  # fmt: skip
def test_an_unknown_architecture_is_answered_with_the_nearest(make: Any, near: str) -> None:
    with pytest.raises(FieldError) as caught:
        make()
    assert caught.value.field == "arch"
    assert near in str(caught.value)


@pytest.mark.parametrize("freeze", ["all", 3, None, ["layer1", 2], [""]])
def test_a_wrong_freeze_is_refused(freeze: Any) -> None:
    with pytest.raises(FieldError) as caught:
        vision(freeze=freeze)
    assert caught.value.field == "freeze"


# ------------------------------------------------------------------------------------------------------------ fitted to


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("arch", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "googlenet"])
def test_architectures_take_other_channels_and_classes(arch: str, channels: int) -> None:
    spec = images_of(channels, 32, 32, classes=7)
    chosen = vision(arch)
    chosen.check(spec)
    network = build_network(chosen, spec, seed=0)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == first.weight.shape[1] == channels
    trains(network, spec)


def test_a_grey_image_gives_what_it_gave_in_three_grey_colours() -> None:
    colour = nn.Conv2d(3, 5, 3)
    grey = images(images_of(1, 6, 6))
    torch.testing.assert_close(
        nn.functional.conv2d(grey, with_channels(colour.weight, 1), colour.bias), colour(grey.expand(-1, 3, -1, -1))
    )
    assert with_channels(colour.weight, 7).shape == (5, 7, 3, 3)


SMALLEST = {"convnext": "convnext_tiny", "densenet": "densenet121", "swin": "swin_t", "vgg": "vgg11"}


@pytest.mark.parametrize(("family", "least"), LEAST_SIDES.items())
def test_the_least_side_of_a_family_is_the_least(family: str, least: int) -> None:
    arch = SMALLEST.get(family, family)
    spec, smaller = images_of(3, least, least), images_of(3, least - 1, least + 9)
    vision(arch).check(spec)
    with pytest.raises(ConfigError, match=f"model.arch={arch} needs images of at least {least}×{least}"):
        vision(arch).check(smaller)
    network = vision(arch).build(spec)
    assert network(images(spec)).shape == (2, 10)
    with pytest.raises(RuntimeError):
        network(images(smaller))


@pytest.mark.parametrize(
    ("arch", "height", "width"),
    [("vit_b_16", 40, 40), ("vit_b_32", 64, 32), ("maxvit_t", 96, 96), ("vit_h_14", 32, 32)],
)
def test_fixed_sizes_are_checked(arch: str, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=f"model.arch={arch} needs .*images"):
        vision(arch).check(images_of(3, height, width))


def test_sizes_are_the_published_ones() -> None:
    imagenet = images_of(3, 224, 224, classes=1000)
    network = vision("resnet18").build(imagenet)
    assert parameter_count(network) == 11_689_512
    assert multiply_adds(network, imagenet) == 1_814_073_344


def test_default_is_torchvisions_own_start() -> None:
    network = build_network(vision("resnet18"), images_of(3, 32, 32, classes=1000), seed=4)
    with torch.random.fork_rng():
        from gradlab.seeds import derive

        torch.manual_seed(derive(4, "init", 1))
        fresh = torchvision.models.resnet18()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


SLOW_SPEC = {
    "vit_h_14": images_of(3, 224, 224),
    "maxvit_t": images_of(3, 224, 224),
    "inception_v3": images_of(1, 96, 96),
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", NAMES)
def test_every_architecture_of_torchvision_trains(arch: str) -> None:
    spec = SLOW_SPEC.get(arch, images_of(1, 64, 64, classes=4))
    chosen = vision(arch)
    chosen.check(spec)
    trains(build_network(chosen, spec, seed=0), spec)


# ----------------------------------------------------------------------------------------------------------------- timm


@needs_timm
@pytest.mark.parametrize("arch", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_timm_takes_our_images_without_a_network(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    spec = images_of(1, 32, 32, classes=7)
    chosen = Timm("timm", arch, None, "none")
    chosen.check(spec)
    try_network(chosen, spec, 32)
    trains(build_network(chosen, spec, seed=0), spec)


@needs_timm
def test_timm_says_which_images_it_cannot_take() -> None:
    with pytest.raises(
        ConfigError, match=r"model=timm model.arch=convnext_atto cannot take the 1×8×8 images of data=images"
    ):
        try_network(Timm("timm", "convnext_atto", None, "none"), images_of(1, 8, 8), 32)


@needs_timm
def test_a_distilled_transformer_keeps_both_its_last_layers_in_training() -> None:
    network = Timm("timm", "deit_tiny_distilled_patch16_224", None, "backbone").build(CIFAR)
    learns = {name.split(".")[-2] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learns == {"head", "head_dist"}


def test_without_timm_it_says_how_to_install_it(tmp_path: Path) -> None:
    """In a process whose path hides timm."""
    program = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'timm' else real(name, *a)\n"
        "import sys; sys.argv = ['train.py', 'model=timm']\n"
        "from gradlab.entry import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=900, env=dict(os.environ)
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'gradlab[timm]'" in done.stderr
    assert done.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------------------- pretrained


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(torchvision.models.resnet18(num_classes=6).state_dict())


def saved(tensors: dict[str, torch.Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.network."])
def test_weights_of_the_same_network_are_all_loaded(
    weights: dict[str, torch.Tensor], tmp_path: Path, suffix: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved({f"{prefix}{name}": tensor for name, tensor in weights.items()}, tmp_path / f"w{suffix}")
    chosen = vision(pretrained=file)
    spec = images_of(3, 32, 32, classes=6)
    chosen.check(spec)
    network = build_network(chosen, spec, seed=0)
    initialize(network, Constant("constant", 7.0), seed=0)  # touches nothing
    for name, tensor in weights.items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert caplog.text == ""


def test_other_classes_and_channels_are_fitted_and_said(
    weights: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = vision(pretrained=saved(weights | {"extra": torch.zeros(1)}, tmp_path / "w.safetensors"))
    with caplog.at_level(logging.WARNING, "gradlab.models"):
        network = build_network(chosen, images_of(1, 32, 32, classes=10), seed=0)
    initialize(network, Constant("constant", 7.0), seed=0)
    state = network.state_dict()
    assert torch.equal(state["conv1.weight"], weights["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(state["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert (state["fc.weight"] == 7).all()
    assert "conv1.weight is fitted from 3 to 1 channels" in caplog.text
    assert "fc.weight, fc.bias begin anew" in caplog.text
    assert "extra are not used" in caplog.text


def test_a_file_of_a_container_and_a_checkpoints_folder_are_read(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "c.pth")
    (tmp_path / "best").mkdir()
    save_file({f"model.{name}": tensor for name, tensor in weights.items()}, tmp_path / "best" / "tensors.safetensors")
    for path in ("c.pth", "best"):
        chosen = vision(pretrained=str(tmp_path / path))
        chosen.check(CIFAR)
        assert torch.equal(chosen.build(CIFAR).state_dict()["conv1.weight"], weights["conv1.weight"])


def test_weights_of_another_network_are_refused_by_their_names(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    file = saved(weights, tmp_path / "w.safetensors")
    with pytest.raises(
        ConfigError, match=r"does not fit model.arch: layer1.0.conv1.weight is 64×64×3×3 and must be 64×64×1×1"
    ):
        vision("resnet50", file).build(CIFAR)
    half = {name: tensor for name, tensor in weights.items() if not name.startswith("layer4")}
    with pytest.raises(ConfigError, match=r"layer4.0.conv1.weight, .* more missing"):
        vision("resnet18", saved(half, tmp_path / "half.pt")).build(CIFAR)


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.witness),))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "was here"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(witness)))
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        vision(pretrained=str(tmp_path / "evil.pkl")).check(CIFAR)
    torch.save(Evil(witness), tmp_path / "evil.pt")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(witness)))
    for name in ("evil.pt", "evil.pth"):
        with pytest.raises(ConfigError, match=r"not opened|cannot be read"):
            vision(pretrained=str(tmp_path / name)).build(CIFAR)
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x10\0\0\0\0\0\0\0{"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_file_is_a_message(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read|not opened"):
        vision(pretrained=str(tmp_path / f"w{suffix}")).build(CIFAR)


def test_a_missing_file_is_said_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        vision(pretrained=str(tmp_path / "none.pt")).check(CIFAR)
    with pytest.raises(ConfigError, match="folder without"):
        vision(pretrained=str(tmp_path)).check(CIFAR)


@needs_timm
def test_timm_loads_local_weights(tmp_path: Path) -> None:
    import timm

    whole = timm.create_model("resnet18", num_classes=6).state_dict()
    network = Timm("timm", "resnet18", saved(whole, tmp_path / "w.safetensors"), "none").build(images_of(1, 32, 32))
    assert torch.equal(network.state_dict()["layer2.0.conv1.weight"], whole["layer2.0.conv1.weight"])
    assert torch.equal(network.state_dict()["conv1.weight"], whole["conv1.weight"].sum(1, keepdim=True))


# --------------------------------------------------------------------------------------------------------------- frozen


def step(network: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state before and after a step of gradient descent, with a validation between."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.eval()(images(CIFAR))
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    network.train()(images(CIFAR)).square().mean().backward()
    optimizer.step()
    return before, network.state_dict()


@pytest.mark.parametrize(
    ("freeze", "changed"),
    [
        ("backbone", {"fc"}),
        (["conv1", "bn1", "layer1", "layer2.0"], {"layer2", "layer3", "layer4", "fc"}),
        ([], {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
    ],
)
def test_frozen_parts_do_not_change_their_batchnorm_included(freeze: Any, changed: set[str]) -> None:
    network = build_network(vision(freeze=freeze), CIFAR, seed=0)
    before, after = step(network)
    different = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.removeprefix("network.").split(".")[0] for name in different} == changed
    assert not any(name.startswith("network.layer2.0") for name in different)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["layr1"], "Did you mean 'layer1'"),
        (["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"], "nothing to train"),
    ],
)
def test_a_freeze_that_cannot_be_is_refused(freeze: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vision(freeze=freeze).build(CIFAR)
