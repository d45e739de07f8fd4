"""The trace of a network, the table and the picture made of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradlab.analysis.network_diagram import Box, Frame, Plus, boxes, draw_network, outline
from gradlab.data.spec import DataSpec
from gradlab.layers import Residual
from gradlab.models import MODELS
from gradlab.models.resnet import ResNet
from gradlab.models.size import layer_table, multiply_adds, parameter_count
from gradlab.models.torchvision import Torchvision
from gradlab.models.trace import INPUT, trace
from gradlab.models.vit import ViT
from gradlab.models.wide_resnet import WideResNet
from test_models import default, images_of

CIFAR = images_of(3, 32, 32)


def drawn(chosen: Any, spec: DataSpec = CIFAR) -> list[Any]:
    return outline(trace(chosen.build(spec), spec.image_shape))


# ---------------------------------------------------------------------------------------------------------------- trace


def test_a_trace_tells_shapes_sources_and_sizes() -> None:
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), Residual(body), nn.Flatten(), nn.Linear(100, 2))
    calls = trace(network, (1, 7, 7))
    by_name = {call.name: call for call in calls if call.kind != "+"}
    assert by_name[""].parameters == parameter_count(network) == by_name[""].trained
    assert by_name["0"].sources == (INPUT,)
    assert by_name["0"].shape == (4, 5, 5)
    assert by_name["1.body"].parameters == 4 * 4 * 9 + 4 + 4 * 4 + 4
    (plus,) = (call for call in calls if call.kind == "+")
    assert plus.sources == (by_name["1.shortcut"].index, by_name["1.body.2"].index)
    assert by_name["3"].sources == (by_name["2"].index,)
    assert [by_name[name].multiply_adds for name in ("0", "1.body.0", "1.body.2", "3")] == [900, 3600, 400, 200]
    assert by_name[""].multiply_adds == 5100
    assert [calls[call.parent].name for call in calls if call.name in ("1.body.0", "1")] == ["", "1.body"]  # type: ignore[index]


def test_attention_counts_its_products() -> None:
    """65 tokens of width 12: to query, key, value and out, and each token with each, twice."""
    network = ViT("vit", 4, 1, 12, 3, 2.0, 0.0, "token").build(CIFAR)
    attention = 65 * 12 * 36 + 65 * 12 * 12 + 2 * 65 * 65 * 12
    assert multiply_adds(network, CIFAR) == 64 * 48 * 12 + attention + 2 * 65 * 12 * 24 + 12 * 10
    (call,) = (call for call in trace(network, CIFAR.image_shape) if call.kind == "Attention")
    assert call.multiply_adds == attention
    assert call.leaf


def test_torchs_fused_attention_is_counted_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    expected = 5 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8

    class Shape:
        image_shape = (5, 8)

    assert multiply_adds(layer, Shape()) == expected  # type: ignore[arg-type]


def test_a_layer_used_twice_counts_its_work_twice_and_its_weights_once() -> None:
    shared = nn.Linear(6, 6)
    calls = trace(nn.Sequential(shared, nn.ReLU(), shared), (6,))
    assert calls[0].parameters == 42
    assert calls[0].multiply_adds == 72
    assert [call.parameters for call in calls[1:]] == [42, 0, 0]


def test_tracing_leaves_a_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    threads, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    trace(network, (1, 5, 5))
    assert [layer.training for layer in network.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())
    assert (torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()) == (threads, fast)


# ---------------------------------------------------------------------------------------------------------------- table


def test_the_table_nests_and_adds_up() -> None:
    network = ResNet("resnet", 20, 1).build(CIFAR)
    next(network.parameters()).requires_grad_(False)
    text = layer_table(trace(network, CIFAR.image_shape))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters", "multiply-adds"]
    assert "272,474 (432 frozen)" in lines[2]
    assert any(line.startswith("    body") and "Sequential" in line and "16 × 32 × 32" in line for line in lines)
    assert "+" not in text


# -------------------------------------------------------------------------------------------------------------- outline


def test_norms_and_activations_join_the_layer_before() -> None:
    conv, pool, linear = (row for row in outline(trace(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 2),
        ), (3, 8, 8),
    )))  # fmt: skip
    assert isinstance(conv, Box)
    assert (conv.text, conv.extras) == ("3×3 convolution, 4 filters", ["BatchNorm", "ReLU", "dropout 0.5"])
    assert conv.parameters == 3 * 4 * 9 + 4 + 8
    assert isinstance(pool, Box)
    assert (pool.text, pool.shape) == ("mean over the image", (4,))
    assert isinstance(linear, Box)


def test_equal_blocks_are_one_with_a_count_and_a_shortcut_leads_past_them() -> None:
    stem, *blocks, pool, linear = drawn(ResNet("resnet", 20, 1))
    assert [(block.title, block.times) for block in blocks] == [("residual block", times) for times in (3, 1, 2, 1, 2)]
    for block, label in zip(blocks, ("", "1×1", "", "1×1", ""), strict=True):
        one, two, plus = block.items
        assert isinstance(plus, Plus)
        assert plus.text == label
        assert plus.extras == ["ReLU"]
        assert {*one.calls, *two.calls} <= plus.around
    assert sum(row.parameters for row in (stem, pool, linear)) + sum(
        block.times * sum(row.parameters for row in block.items) for block in blocks
    ) == parameter_count(ResNet("resnet", 20, 1).build(CIFAR))


def test_a_transformers_two_shortcuts_lead_past_attention_and_past_the_mlp() -> None:
    _, block, _, _ = drawn(ViT("vit", 4, 5, 12, 3, 2.0, 0.0, "mean"))
    assert isinstance(block, Frame)
    assert (block.title, block.times) == ("transformer block", 5)
    rows: list[Any] = block.items
    norm, attention, first, other_norm, up, down, second = rows
    assert [row.text for row in (norm, attention, other_norm, up, down)] == [
        "LayerNorm", "self-attention, 3 heads", "LayerNorm", "linear layer, 24 units", "linear layer, 12 units",
    ]  # fmt: skip
    assert first.around.isdisjoint(second.around)
    assert attention.calls[0] in first.around
    assert set(up.calls) <= second.around


def parameters(item: Any) -> int:
    inner = sum(map(parameters, item.items)) if isinstance(item, Frame) else int(item.parameters)
    return inner * int(getattr(item, "times", 1))


@pytest.mark.parametrize(
    ("chosen", "spec"),
    [
        (Torchvision("torchvision", "resnet50", None, "none"), images_of(3, 64, 64)),
        (Torchvision("torchvision", "densenet121", None, "none"), images_of(3, 64, 64)),
        (Torchvision("torchvision", "shufflenet_v2_x0_5", None, "none"), images_of(3, 64, 64)),
        (ResNet("resnet", 110, 1), CIFAR),
        (WideResNet("wide_resnet", 40, 1, 0.1), CIFAR),
    ],
    ids=lambda value: getattr(value, "arch", getattr(value, "name", "")),
)
def test_deep_networks_fit_on_a_page_and_lose_no_parameter(chosen: Any, spec: DataSpec) -> None:
    network = chosen.build(spec)
    items = outline(trace(network, spec.image_shape))
    rows = list(boxes(items))
    assert len(rows) <= 30
    total = sum(parameters(item) for item in items)
    # Of unlike rows in one, the mean is kept, rounded down.
    assert parameter_count(network) - 40 <= total <= parameter_count(network)


def test_very_deep_networks_leave_out_their_middle() -> None:
    layers = [layer for width in range(3, 63) for layer in (nn.Linear(width, width + 1), nn.Tanh())]
    items = outline(trace(nn.Sequential(*layers), (3,)))
    assert len(items) == 31
    assert "30 more rows" in items[15].text  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------------------------------- picture


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_has_its_picture(name: str, tmp_path: Path) -> None:
    calls = trace(default(name).build(CIFAR), CIFAR.image_shape)
    image = np.zeros(CIFAR.image_shape, dtype=np.uint8)
    draw_network(tmp_path / "network.png", calls, image, f"{name} on images", "cross entropy")
    content = (tmp_path / "network.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 5, 40), (4, 9, 9)])
def test_images_of_any_channels_are_drawn(shape: tuple[int, int, int], tmp_path: Path) -> None:
    spec = images_of(*shape)
    calls = trace(default("mlp").build(spec), spec.image_shape)
    draw_network(tmp_path / "network.png", calls, np.zeros(shape, dtype=np.uint8), "mlp on images", "cross entropy")
    assert (tmp_path / "network.png").stat().st_size > 10_000
