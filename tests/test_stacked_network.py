"""Stacked networks against the same networks alone: every model's logits, gradients, statistics and masks, to the bit."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlab.data.spec import DataSpec
from gradlab.layers import PartlyFrozen
from gradlab.models import MODELS
from gradlab.models.base import build_network
from gradlab.stacked import forms
from gradlab.stacked.network import Stack, Unstackable, check_stackable
from tiny import choice

CLASSES, BATCH = 5, 16


def spec(channels: int, height: int, width: int) -> DataSpec:
    return DataSpec("images", (channels, height, width), tuple(map(str, range(CLASSES))), 100)


SMALL: dict[str, tuple[Any, DataSpec]] = {
    "logistic": (choice("model", "logistic"), spec(1, 4, 5)),
    "mlp": (choice("model", "mlp", hidden=[17, 12]), spec(1, 4, 5)),
    "lenet": (choice("model", "lenet"), spec(1, 12, 14)),
    "lenet of colours": (choice("model", "lenet", activation="tanh"), spec(3, 12, 12)),
    "cnn": (choice("model", "cnn", channels=[8, 16], dropout=0.25), spec(3, 8, 6)),
    "cnn without norm": (choice("model", "cnn", channels=[8, 16], norm="none"), spec(1, 8, 6)),
    "resnet 9": (choice("model", "resnet", depth=9), spec(3, 8, 8)),
    "resnet 18": (choice("model", "resnet", depth=18), spec(3, 6, 6)),
    "resnet 20": (choice("model", "resnet", depth=20), spec(3, 6, 6)),
    "wide_resnet": (choice("model", "wide_resnet", depth=10, widen=1, dropout=0.25), spec(3, 8, 8)),
    "speed": (choice("model", "speed", widths=[8, 16]), spec(3, 8, 8)),
    "vit": (choice("model", "vit", depth=2, width=24, dropout=0.25, pool="mean"), spec(3, 8, 8)),
    "vit with a token": (choice("model", "vit", depth=2, width=24, dropout=0.25, pool="token"), spec(1, 8, 8)),
    "2c2d": (choice("model", "2c2d"), spec(1, 5, 6)),
    "3c3d": (choice("model", "3c3d"), spec(3, 9, 9)),
}


def networks(name: str, count: int, dtype: torch.dtype) -> list[nn.Module]:
    """As ``prepare`` makes them, of different seeds; the dropout rates of those that have any differ."""
    model, data = SMALL[name]
    built = []
    for member in range(count):
        network = build_network(model, data, member).to(dtype)
        if any(parameter.dim() == 4 for parameter in network.parameters()):
            network = network.to(memory_format=torch.channels_last)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout) and layer.p:
                layer.p = (0.25, 0.0, 0.5)[member % 3]
        built.append(network)
    return built


@dataclass
class Alone:
    """A network trained by itself, with the random numbers of a process of its own."""

    network: nn.Module
    seed: int
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = torch.Generator().manual_seed(self.seed).get_state()

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step of gradient descent; the logits before it."""
        self.network.train()
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            logits: torch.Tensor = self.network(images)
            self._random = torch.get_rng_state()
        named = {name: each for name, each in self.network.named_parameters() if each.requires_grad}
        found = torch.autograd.grad(F.cross_entropy(logits, labels), list(named.values()))
        self.gradients = dict(zip(named, found, strict=True))
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.sub_(self.gradients[name], alpha=0.05)
        return logits.detach()

    @torch.no_grad()
    def evaluate(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.eval()(images)  # type: ignore[no-any-return]


def train(stack: Stack, images: torch.Tensor, labels: torch.Tensor, shared: bool) -> tuple[torch.Tensor, Any]:
    """One step of gradient descent of all members; the logits before it, and the gradients."""
    logits = stack.forward(images, shared)
    loss = torch.stack([F.cross_entropy(own, labels) for own in logits]).sum()
    found = torch.autograd.grad(loss, list(stack.parameters.values()))
    gradients = dict(zip(stack.parameters, found, strict=True))
    with torch.no_grad():
        for name, parameter in stack.parameters.items():
            parameter.sub_(gradients[name], alpha=0.05)
    return logits.detach(), gradients


def batches(
    data: DataSpec, members: int, dtype: torch.dtype, shared: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Without end: images [batch, …] or [members, batch, …], and labels. Every third batch is short."""
    random = torch.Generator().manual_seed(5)
    while True:
        for size in (BATCH, BATCH, BATCH // 2):
            shape = (size, *data.image_shape) if shared else (members, size, *data.image_shape)
            images = torch.randn(shape, generator=random, dtype=dtype)
            yield images, torch.randint(CLASSES, (size,), generator=random)


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    if tolerance == 0:
        assert torch.equal(found, expected), what
    else:
        gap = (found.double() - expected.double()).abs().max().item()
        assert gap <= tolerance * max(expected.double().abs().max().item(), 1e-30), (what, gap)


def compare(name: str, dtype: torch.dtype, *, shared: bool, tolerance: float, members: int = 3, steps: int = 3) -> None:
    """Train a stack and its members alone side by side; everything that they compute must be the same."""
    own = networks(name, members, dtype)
    seeds = [100 + member for member in range(members)]
    alone = [Alone(copy.deepcopy(network), seed) for network, seed in zip(own, seeds, strict=True)]
    stack = Stack(own, seeds)
    source = batches(SMALL[name][1], members, dtype, shared)
    for _ in range(steps):
        images, labels = next(source)
        folded = images if shared else images.flatten(0, 1)
        logits, gradients = train(stack, folded, labels, shared)
        judged = stack.evaluate(folded, shared)
        for member, single in enumerate(alone):
            seen = images if shared else images[member]
            assert_same(logits[member], single.train(seen, labels), tolerance, "logits")
            for parameter, gradient in single.gradients.items():
                assert_same(gradients[parameter][member], gradient, tolerance, f"the gradient of {parameter}")
            assert_same(judged[member], single.evaluate(seen), tolerance, "logits in evaluation")
            for key, tensor in single.network.state_dict().items():
                assert_same(stack.networks[member].state_dict()[key], tensor, tolerance, key)


def test_every_model_is_compared() -> None:
    assert {model.name for model, _ in SMALL.values()} == set(MODELS) - {"torchvision", "timm"}


@pytest.mark.parametrize("name", SMALL)
def test_a_stack_has_the_bits_of_its_members_alone(name: str) -> None:
    # On one CPU the same kernels see the same numbers. They round differently where the activations of a member do not
    # begin at a multiple of 64 bytes (few, odd numbers of channels and images), and in products of fewer than 400
    # multiplications, which torch makes itself when they come in stacks. There are none of these here.
    big = name in ("resnet 9", "resnet 18", "2c2d", "3c3d")
    for shared in (True, False):
        compare(name, torch.float32, shared=shared, tolerance=0, members=2 if big else 3, steps=2 if big else 3)


@pytest.mark.parametrize("name", SMALL)
def test_a_stack_computes_in_float64_what_its_members_compute_alone(name: str) -> None:
    if name in ("resnet 9", "resnet 18"):
        compare(name, torch.float64, shared=True, tolerance=1e-12, members=2, steps=1)
    else:
        compare(name, torch.float64, shared=True, tolerance=1e-12)
        compare(name, torch.float64, shared=False, tolerance=1e-12, steps=2)


def same_start(name: str, count: int) -> list[nn.Module]:
    """Members that begin alike, as those of a sweep over learning rates do."""
    return [copy.deepcopy(networks(name, 1, torch.float32)[0]) for _ in range(count)]


def test_one_member_is_a_stack_too() -> None:
    for name in ("mlp", "cnn", "vit with a token"):
        compare(name, torch.float32, shared=True, tolerance=0, members=1)


def test_every_member_has_its_own_parameters() -> None:
    stack = Stack(networks("cnn", 3, torch.float32), range(3))
    images, labels = next(batches(SMALL["cnn"][1], 3, torch.float32, True))
    before = stack.evaluate(images)
    assert not torch.equal(before[0], before[1])
    with torch.no_grad():
        stack.flat[1] += 0.1
    after = stack.evaluate(images)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[1], before[1])
    _, gradients = train(stack, images, labels, True)
    for gradient in gradients.values():
        assert not torch.equal(gradient[0], gradient[1])


def test_storage_is_shared_both_ways() -> None:
    stack = Stack(networks("cnn", 3, torch.float32), range(3))
    images, labels = next(batches(SMALL["cnn"][1], 3, torch.float32, True))
    train(stack, images, labels, True)
    judged = stack.evaluate(images)
    for member, network in enumerate(stack.networks):
        with torch.no_grad():
            assert torch.equal(network.eval()(images), judged[member])
        assert int(network.get_buffer("1.num_batches_tracked")) == 1
    with torch.no_grad():
        stack.networks[2].get_parameter("0.weight").zero_()
        stack.networks[2].get_buffer("1.running_mean").fill_(3)
    assert not stack.parameters["0.weight"][2].any()
    assert stack.parameters["0.weight"][1].any()
    changed = stack.evaluate(images)
    assert torch.equal(changed[:2], judged[:2])
    assert not torch.equal(changed[2], judged[2])
    size = sum(each.numel() for each in stack.networks[0].parameters())
    assert stack.flat.shape == (3, size)
    for name, (a, b) in stack.columns.items():
        own = stack.networks[1].get_parameter(name)
        assert stack.flat[1, a:b].data_ptr() == own.data_ptr() == stack.parameters[name][1].data_ptr()
        assert b - a == own.numel()
    # A member is an ordinary network: it is copied without the others.
    twin = copy.deepcopy(stack.networks[0])
    assert twin.get_parameter("0.weight").untyped_storage().nbytes() == 4 * twin.get_parameter("0.weight").numel()


@pytest.mark.parametrize("name", ["mlp", "lenet", "cnn", "resnet 20", "vit with a token"])
def test_a_member_of_nan_changes_no_bit_of_the_others(name: str) -> None:
    own = networks(name, 3, torch.float32)
    twin = Stack(copy.deepcopy(own), [7, 8, 9])
    with torch.no_grad():
        for parameter in own[1].parameters():
            parameter.fill_(float("nan"))
    stack = Stack(own, [7, 8, 9])
    source = batches(SMALL[name][1], 3, torch.float32, True)
    for _ in range(2):
        images, labels = next(source)
        sick, _ = train(stack, images, labels, True)
        well, _ = train(twin, images, labels, True)
        assert sick[1].isnan().all()
        assert torch.equal(sick[[0, 2]], well[[0, 2]])
    for member in (0, 2):
        for key, tensor in twin.networks[member].state_dict().items():
            assert torch.equal(stack.networks[member].state_dict()[key], tensor), key


def test_members_leave_in_the_middle() -> None:
    own, seeds = networks("cnn", 4, torch.float32), [4, 5, 6, 7]
    alone = [Alone(copy.deepcopy(network), seed) for network, seed in zip(own, seeds, strict=True)]
    stack = Stack(own, seeds)
    parameter = own[3].get_parameter("0.weight")
    source = batches(SMALL["cnn"][1], 4, torch.float32, True)
    staying = [0, 1, 2, 3]
    for keep in ([0, 1, 2, 3], [3, 1], [0]):
        stack.keep(keep)
        staying = [staying[member] for member in keep]
        assert stack.size == len(keep) == len(stack.flat)
        images, labels = next(source)
        logits, _ = train(stack, images, labels, True)
        for place, member in enumerate(staying):
            assert torch.equal(logits[place], alone[member].train(images, labels))
            for key, tensor in alone[member].network.state_dict().items():
                assert torch.equal(stack.networks[place].state_dict()[key], tensor), key
    assert stack.networks == [own[3]]
    assert own[3].get_parameter("0.weight") is parameter
    # Who has left keeps what it had, in tensors of its own.
    for key, tensor in alone[1].network.state_dict().items():
        assert torch.equal(own[1].state_dict()[key], tensor), key
    assert own[0].get_parameter("0.weight").untyped_storage().nbytes() == 4 * parameter.numel()
    for wrong in ([], [0, 0], [1]):
        with pytest.raises(ValueError, match="members to keep"):
            stack.keep(wrong)


def test_members_of_one_seed_and_rate_share_their_masks() -> None:
    own = same_start("wide_resnet", 3)
    shared, apart = Stack(copy.deepcopy(own), [1, 1, 1]), Stack(own, [1, 1, 2])
    images, _ = next(batches(SMALL["wide_resnet"][1], 3, torch.float32, True))
    assert [len(noise) for noise in shared.draw(images)] == [1, 1, 1]
    noises = apart.draw(images)
    assert [len(noise) for noise in noises] == [3, 3, 3]
    assert torch.equal(noises[0][0], noises[0][1])
    assert not torch.equal(noises[0][0], noises[0][2])


def test_random_numbers_go_on_from_a_saved_state() -> None:
    stack = Stack(networks("cnn", 3, torch.float32), [1, 2, 3])
    images, _ = next(batches(SMALL["cnn"][1], 3, torch.float32, True))
    stack.forward(images)
    states = stack.generator_states()
    expected = stack.draw(images)
    stack.forward(images)
    stack.load_generator_states(states)
    for noise, same in zip(stack.draw(images), expected, strict=True):
        assert torch.equal(noise, same)
    with pytest.raises(ValueError, match="states of generators"):
        stack.load_generator_states(states[:2])


def test_no_random_number_of_the_process_is_used() -> None:
    before = torch.get_rng_state()
    stack = Stack(networks("cnn", 2, torch.float32), [1, 2])
    stack.forward(next(batches(SMALL["cnn"][1], 2, torch.float32, True))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_parts_stay_as_they_are() -> None:
    def frozen(network: nn.Module) -> nn.Module:
        assert isinstance(network, nn.Sequential)
        return PartlyFrozen(network, [network[0], network[1]], [])

    own = [frozen(network) for network in networks("cnn", 2, torch.float32)]
    alone = [Alone(copy.deepcopy(network), seed) for network, seed in zip(own, (1, 2), strict=True)]
    stack = Stack(own, [1, 2])
    assert "network.0.weight" not in stack.columns
    source = batches(SMALL["cnn"][1], 2, torch.float32, True)
    for _ in range(2):
        images, labels = next(source)
        logits, _ = train(stack, images, labels, True)
        for member, single in enumerate(alone):
            assert torch.equal(logits[member], single.train(images, labels))
            for key, tensor in single.network.state_dict().items():
                assert torch.equal(stack.networks[member].state_dict()[key], tensor), key
    assert int(stack.networks[0].get_buffer("network.1.num_batches_tracked")) == 0


def test_forms_agree() -> None:
    """What a GPU computes with, beside the single layers that the other tests hold to the bit."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    for groups in (1, 2):
        settings = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "groups": groups}
        weight, bias = draw(3, 6, 4 // groups, 3, 3), draw(3, 6)
        for shared, x in ((True, draw(5, 4, 7, 6)), (False, draw(15, 4, 7, 6))):
            expected = forms.convolution_unrolled(x, weight, bias, shared, settings)
            for seen in (x, x.to(memory_format=torch.channels_last)):
                found = forms.convolution_at_once(seen, weight, bias, shared, settings)
                assert_same(found, expected, 1e-12, "convolution")
    x, weight, bias = draw(15, 4, 3, 2), draw(3, 4), draw(3, 4)
    for training in (True, False):
        rows = [torch.stack([draw(3, 4), draw(3, 4).abs()])] * 2
        results = []
        for form, (mean, variance) in zip(
            (forms.batch_norm_unrolled, forms.batch_norm_at_once), [row.clone() for row in rows], strict=True
        ):
            results.append((form(x, mean, variance, weight, bias, training, 0.1, 1e-5, 3), mean, variance))
        for expected, found in zip(*results, strict=True):
            assert_same(found, expected, 1e-12, "BatchNorm")
    expected = forms.group_norm_unrolled(x, weight, bias, 2, 1e-5)
    assert_same(forms.group_norm_at_once(x, weight, bias, 2, 1e-5), expected, 1e-12, "GroupNorm")
    tokens = draw(15, 7, 4)
    expected = forms.layer_norm_unrolled(tokens, weight, bias, [4], 1e-5)
    assert_same(forms.layer_norm_at_once(tokens, weight, bias, [4], 1e-5), expected, 1e-12, "LayerNorm")


def test_lower_precision_of_autocast() -> None:
    own = networks("vit with a token", 2, torch.float32)
    alone, stack = copy.deepcopy(own), Stack(own, [1, 2])
    images, labels = next(batches(SMALL["vit with a token"][1], 2, torch.float32, True))
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = train(stack, images, labels, True)
        assert logits.dtype == torch.bfloat16
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        for member, network in enumerate(alone):
            torch.manual_seed(member + 1)
            assert_same(logits[member], network.train()(images), 0.02, "logits")


class Mixing(nn.Module):
    """Takes the mean over its batch away: what one image becomes depends on the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x) if self.training else x


class Halving(nn.Module):
    """Of a library, as it were: treats every image alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def around(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), layer, nn.Linear(6, CLASSES))


def test_a_forward_that_is_not_known_is_tried() -> None:
    stack = Stack([around(Halving()), around(Halving())], [0, 1], image_shape=(2, 2, 2))
    assert stack.forward(torch.zeros(3, 2, 2, 2)).shape == (2, 3, CLASSES)
    with pytest.raises(
        Unstackable, match=r"^a Sequential that computes something else with several members: logits differ"
    ):
        Stack([around(Mixing()), around(Mixing())], [0, 1], image_shape=(2, 2, 2))
    with pytest.raises(Unstackable, match="random numbers outside"):
        Stack([around(Noisy()), around(Noisy())], [0, 1], image_shape=(2, 2, 2))
    late = Stack([around(Mixing()), around(Mixing())], [0, 1])
    with pytest.raises(Unstackable, match="logits differ"):
        late.forward(torch.zeros(3, 2, 2, 2))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LSTM(6, 6), "a LSTM layer at '2', whose own parameters or buffers have no stacked form"),
        (nn.Dropout2d(0.1), "a Dropout2d layer at '2', which draws random numbers"),
        (nn.BatchNorm1d(6, momentum=None), "a BatchNorm1d layer at '2' with momentum=None"),
    ],
)
def test_what_cannot_be_stacked_is_refused_in_one_line(layer: nn.Module, message: str) -> None:
    with pytest.raises(Unstackable) as caught:
        check_stackable(around(layer))
    assert str(caught.value) == message


def test_other_architectures_are_refused() -> None:
    def refuse(one: nn.Module, other: nn.Module, message: str) -> None:
        with pytest.raises(Unstackable, match=message):
            Stack([one, other], [0, 1])

    refuse(around(nn.ReLU()), around(nn.Tanh()), "differ in the kind of '2'")
    refuse(around(nn.LeakyReLU(0.1)), around(nn.LeakyReLU(0.2)), r"differ in '2.negative_slope': 0.1 and 0.2")
    refuse(around(nn.BatchNorm1d(6)), around(nn.BatchNorm1d(6, momentum=0.2)), "differ in '2.momentum'")
    refuse(around(nn.ReLU()), around(nn.ReLU()).double(), "differ in the shape, type")
    refuse(nn.Linear(4, 3), nn.Linear(4, 3, bias=False), "differ in")
    hooked = around(nn.ReLU())
    hooked[2].register_forward_hook(lambda *_: None)  # type: ignore[index]
    with pytest.raises(Unstackable, match="a ReLU layer at '2', which has a hook"):
        check_stackable(hooked)
    with pytest.raises(ValueError, match="a seed for each"):
        Stack([around(nn.ReLU())], [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small"])
def test_networks_of_torchvision_stack_if_their_layers_do(arch: str) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    own = [get_model(arch, num_classes=CLASSES).to(memory_format=torch.channels_last) for _ in range(2)]
    alone = copy.deepcopy(own)
    stack = Stack(own, [0, 1], image_shape=(3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    judged = stack.evaluate(images)
    with torch.no_grad():
        for member, network in enumerate(alone):
            assert_same(judged[member], network.eval()(images), 1e-4, "logits")
    with pytest.raises(Unstackable, match="a VisionTransformer layer, whose own parameters"):
        check_stackable(get_model("vit_b_16", image_size=32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_computation_compiles(name: str) -> None:
    own = networks(name, 3, torch.float32)
    plain, stack = Stack(copy.deepcopy(own), [1, 2, 3]), Stack(own, [1, 2, 3])

    def loss(
        stack: Stack, images: torch.Tensor, noises: tuple[torch.Tensor, ...], labels: torch.Tensor
    ) -> torch.Tensor:
        logits = stack.compute(images, noises)
        return F.cross_entropy(logits.flatten(0, 1), labels.repeat(3), reduction="none").view(3, -1).mean(1).sum()

    compiled = torch.compile(loss, fullgraph=True)
    source = batches(SMALL[name][1], 3, torch.float32, True)
    for _ in range(2):
        images, labels = next(source)
        found = torch.autograd.grad(compiled(stack, images, stack.draw(images), labels), [*stack.parameters.values()])
        expected = torch.autograd.grad(loss(plain, images, plain.draw(images), labels), [*plain.parameters.values()])
        for key, one, other in zip(stack.parameters, found, expected, strict=True):
            assert_same(one, other, 1e-5, key)
        for key, tensor in plain.networks[1].state_dict().items():
            assert_same(stack.networks[1].state_dict()[key], tensor, 1e-5, key)
