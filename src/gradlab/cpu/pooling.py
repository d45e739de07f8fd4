"""The derivative of max pooling, where windows touch and do not overlap, as an operation of torch's: ``gradlab::pool_backward``.

torch's compiler adds each window's gradient to zeros at its place, by indices of 64 bits, one after the other, or looks for the
largest number of a window once more for each of its pixels.
"""

import torch

from gradlab.cpu.library import call, channels_last, empty_like_images


@torch.library.custom_op("gradlab::pool_backward", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def pool_backward(gradient: torch.Tensor, chosen: torch.Tensor, window: list[int]) -> torch.Tensor:
    """The gradient by images of what has ``gradient`` by ``F.max_pool2d(images, window)``.

    Args:
        gradient: [images, channels, height, width] of the windows, float32 on the CPU.
        chosen: the same, int8: which of its pixels a window has chosen, counted row after row.
        window: [height, width], in pixels.

    Returns:
        [images, channels, height · window height, width · window width], channels last.
    """
    gradient, chosen = channels_last(gradient), channels_last(chosen)
    result = _pixels(gradient, window)
    count, channels, height, width = gradient.shape
    call("pooling_by_images", gradient, chosen, result, count, height, width, channels, *window)
    return result


@pool_backward.register_fake
def _(gradient: torch.Tensor, chosen: torch.Tensor, window: list[int]) -> torch.Tensor:
    return _pixels(gradient, window)


def _pixels(gradient: torch.Tensor, window: list[int]) -> torch.Tensor:
    height, width = (own * each for own, each in zip(gradient.shape[2:], window, strict=True))
    return empty_like_images(gradient, gradient.shape[1], height, width)
