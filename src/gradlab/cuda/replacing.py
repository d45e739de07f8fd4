"""Where networks ask torch for max pooling, they get ours, where it does the same."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradlab.cuda import pooling

Window = list[int] | None


class Replacing(TorchFunctionMode):
    """In whose context torch's functions are replaced, on a GPU that has kernels of ours.

    Args:
        device: on which the network is.
        devices: kinds of device that have them.
    """

    def __init__(self, device: torch.device, devices: Sequence[str] = ("cuda",)) -> None:
        super().__init__()
        self.takes = device.type in devices and pooling.obstacle(device) is None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        window_of = WINDOWS.get(function) if self.takes else None
        if window_of is not None:
            window = window_of(*args, **kwargs)
            images = args[0] if args else kwargs["input"]
            if window is not None and (order := _order(images)) is not None:
                return pooling.MaxPool.apply(images, window, order == "last")[0]
        return function(*args, **kwargs)


def _of_max_pool(
    input: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Window:  # fmt: skip
    """The window of ``F.max_pool2d`` with these arguments, where ours does the same."""
    window = _pair(kernel_size)
    touching = stride is None or stride == [] or _pair(stride) == window
    if return_indices or input.dim() != 4 or not touching or _pair(padding) != [0, 0] or _pair(dilation) != [1, 1]:
        return None
    sides = input.shape[2:]
    if any(own < each for own, each in zip(sides, window, strict=True)):
        return None
    if ceil_mode and any(own % each for own, each in zip(sides, window, strict=True)):
        return None
    return window if math.prod(window) <= pooling.MOST_PIXELS else None


def _of_adaptive(input: torch.Tensor, output_size: Any, return_indices: bool = False) -> Window:
    """The same of ``F.adaptive_max_pool2d``: the one window of the whole image."""
    if return_indices or input.dim() != 4 or _pair(output_size) != [1, 1]:
        return None
    window = list(input.shape[2:])
    return window if 0 < math.prod(window) <= pooling.MOST_PIXELS else None


WINDOWS: dict[Any, Callable[..., Window]] = {F.max_pool2d: _of_max_pool, F.adaptive_max_pool2d: _of_adaptive}


def _pair(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value, value]


def _order(images: torch.Tensor) -> str | None:
    """``last`` where a pixel's channels lie beside each other in memory, ``first`` where an image's pixels do; None for all else."""
    if images.dtype not in pooling.DTYPES or images.numel() > pooling.MOST_NUMBERS:
        return None
    if images.is_contiguous(memory_format=torch.channels_last):
        return "last"
    return "first" if images.is_contiguous() else None
