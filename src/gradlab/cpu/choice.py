"""Which convolutions our operations do faster than torch's library: measured on an AMD EPYC, experiments/LOG.md."""

from collections.abc import Sequence

import torch
from torch import nn

from gradlab.cpu.direct import WIDTH
from gradlab.cpu.library import LANES, compiler
from gradlab.cpu.winograd import TILE, tiles_of
from gradlab.models.trace import Call

LEAST_CHANNELS = 32
"""Of both sides, for Winograd's: below, transforming tiles costs more than the products save."""
LEAST_FILLED = 0.7
"""The share of the tiles' pixels that are an image's: 7×7 has 0.77, 5×5 has 0.39."""
MOST_PRODUCTS = 128
"""Channels times outputs of a group, for direct ones."""
LEAST_PRODUCTS = 64
"""The same, where there are several groups: torch's library has depthwise convolutions of its own."""


def way_of(weights: Sequence[int], size: Sequence[int], border: Sequence[int], groups: int) -> str | None:
    """``winograd``, ``direct``, or None for torch's own.

    Args:
        weights: shape of the kernels, [outputs, channels of a group, height, width]; stride and dilation are 1.
        size: height and width of the images, in pixels.
        border: pixels of padding, vertical and horizontal.
        groups: of the convolution.
    """
    outputs, channels, *kernel = weights
    if kernel == [3, 3] and list(border) == [1, 1] and groups == 1 and min(outputs, channels) >= LEAST_CHANNELS:
        whole = outputs % LANES == channels % LANES == 0
        height, width = size
        filled = height * width / tiles_of(height, width) / TILE**2
        return "winograd" if whole and filled >= LEAST_FILLED else None
    products = channels * outputs // groups
    is_narrow = kernel[1] == WIDTH and products <= MOST_PRODUCTS and (groups == 1 or products >= LEAST_PRODUCTS)
    return "direct" if is_narrow else None


def share_of(calls: Sequence[Call], like: torch.Tensor) -> float:
    """What share of a network's multiply-adds a compiled step on the device and of the dtype of ``like`` does by our operations."""
    whole = calls[0].multiply_adds
    if not whole or like.device.type != "cpu" or like.dtype != torch.float32 or compiler() is None:
        return 0.0
    return sum(call.multiply_adds for call in calls if call.leaf and _is_ours(call)) / whole


def _is_ours(call: Call) -> bool:
    layer = call.layer
    if not isinstance(layer, nn.Conv2d) or isinstance(layer.padding, str):
        return False
    plain = layer.stride == (1, 1) and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    # Winograd's leaves an image its size, and direct ones take any.
    return plain and way_of(layer.weight.shape, call.shape[1:], layer.padding, layer.groups) is not None
