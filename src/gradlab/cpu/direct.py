"""Direct convolutions between few channels as two operations of torch's, ``gradlab::direct`` and its derivative."""

import ctypes

import torch

from gradlab.cpu.library import LANES, call, channels_last, empty_like_images

WIDTH = 5
"""Of the kernels whose derivative there is: smaller ones torch's library does as fast (``experiments/LOG.md``)."""
CHUNKS = 16
"""Sums over images that are added up at the end, whatever the number of threads."""


@torch.library.custom_op("gradlab::direct", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def direct(images: torch.Tensor, kernels: torch.Tensor, border: list[int], groups: int) -> torch.Tensor:
    """``F.conv2d(images, kernels, padding=border, groups=groups)``.

    Args:
        images: [images, groups·channels, height, width], float32 on the CPU.
        kernels: [outputs, channels, kernel height, kernel width].
        border: [above and below, left and right], in pixels.
        groups: of channels and outputs.

    Returns:
        [images, outputs, height, width], channels last.
    """
    images, kernels = channels_last(images), channels_last(kernels)
    outputs, channels, *kernel = kernels.shape
    packed = kernels.new_empty(channels * kernel[0] * kernel[1] * groups * _padded(outputs // groups))
    result = _outputs(images, kernels, border)
    call("direct_outputs", _shape(images, kernels, border, groups), images, kernels, packed, result)
    return result


@torch.library.custom_op("gradlab::direct_backward", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def direct_backward(
    gradient: torch.Tensor,
    images: torch.Tensor,
    kernels: torch.Tensor,
    border: list[int],
    groups: int,
    by_images: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients by images and by kernels of what has ``gradient`` by ``direct(images, kernels, border, groups)``.

    Args:
        gradient: [images, outputs, height, width].
        images, kernels, border, groups: see ``direct``; kernels are ``WIDTH`` wide.
        by_images: whether the first is wanted; else it is empty.

    Raises:
        ValueError: the kernels are of another width.
    """
    if kernels.shape[3] != WIDTH:
        raise ValueError(f"the derivative is that of kernels {WIDTH} wide, and these are {kernels.shape[3]} wide")
    gradient, images, kernels = channels_last(gradient), channels_last(images), channels_last(kernels)
    outputs, channels, *kernel = kernels.shape
    shape = _shape(images, kernels, border, groups)
    if by_images:
        packed = kernels.new_empty(kernel[0] * outputs * _padded(kernel[1] * channels))
        images_gradient = empty_like_images(images, *images.shape[1:])
        call("direct_by_images", shape, gradient, kernels, packed, images_gradient)
    else:
        images_gradient = images.new_empty(0)
    chunks = min(CHUNKS, len(images))
    sums = kernels.new_empty(chunks * channels * kernel[0] * kernel[1] * groups * _padded(outputs // groups))
    kernels_gradient = empty_like_images(kernels, *kernels.shape[1:])
    call("direct_by_kernels", shape, images, gradient, sums, kernels_gradient, chunks)
    return images_gradient, kernels_gradient


@direct.register_fake
def _(images: torch.Tensor, kernels: torch.Tensor, border: list[int], groups: int) -> torch.Tensor:
    return _outputs(images, kernels, border)


@direct_backward.register_fake
def _(
    gradient: torch.Tensor,
    images: torch.Tensor,
    kernels: torch.Tensor,
    border: list[int],
    groups: int,
    by_images: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    images_gradient = empty_like_images(images, *images.shape[1:]) if by_images else images.new_empty(0)
    return images_gradient, empty_like_images(kernels, *kernels.shape[1:])


def _outputs(images: torch.Tensor, kernels: torch.Tensor, border: list[int]) -> torch.Tensor:
    sizes = zip(images.shape[2:], kernels.shape[2:], border, strict=True)
    height, width = (size + 2 * beyond - kernel + 1 for size, kernel, beyond in sizes)
    return empty_like_images(images, kernels.shape[0], height, width)


def _padded(numbers: int) -> int:
    return -(-numbers // LANES) * LANES


def _shape(
    images: torch.Tensor, kernels: torch.Tensor, border: list[int], groups: int
) -> "ctypes.Array[ctypes.c_ssize_t]":
    """``Shape`` of direct.c."""
    outputs, channels, *kernel = kernels.shape
    numbers = (len(images), groups, channels, *images.shape[2:], outputs // groups, *kernel, *border)
    return (ctypes.c_ssize_t * len(numbers))(*numbers)
