"""Winograd's convolution as two operations of torch's, ``gradlab::winograd`` and its derivative.

Transformed tiles are four times the pixels, so they are made of a few images at a time, which stay in the processor's cache:
transformed, multiplied for each of a tile's 36 numbers, and transformed back.
"""

from collections.abc import Iterator

import torch

from gradlab.cpu.library import call, channels_last, empty_like_images

NUMBERS = 36
"""That a tile has once it is transformed, for each channel."""
TILE = 4
"""Pixels of an output on each side of a tile."""
LEAST_TILES = 64
"""At once: fewer, and a product of matrices is mostly reading its second factor."""
REREAD = 2**17
"""Bytes of transformed kernels for each tile at once: the kernels are read anew for each group of tiles."""


@torch.library.custom_op("gradlab::winograd", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def winograd(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """``F.conv2d(images, kernels, padding=1)``.

    Args:
        images: [images, channels, height, width], float32 on the CPU.
        kernels: [outputs, channels, 3, 3]; both numbers of channels are multiples of ``library.LANES``.

    Returns:
        [images, outputs, height, width], channels last.
    """
    images = channels_last(images)
    transformed = _transformed(kernels)
    outputs = _like(images, len(kernels))
    for own, tiles, products in _groups(images, transformed, outputs):
        _of_images("tiles_of_images", images[own], tiles)
        torch.bmm(tiles, transformed.transpose(1, 2), out=products)
        _of_images("outputs_of_products", outputs[own], products)
    return outputs


@torch.library.custom_op("gradlab::winograd_backward", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,))
def winograd_backward(
    gradient: torch.Tensor, images: torch.Tensor, kernels: torch.Tensor, by_images: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients by images and by kernels of what has ``gradient`` by ``winograd(images, kernels)``.

    Args:
        gradient: [images, outputs, height, width].
        images, kernels: see ``winograd``.
        by_images: whether the first is wanted; else it is empty.
    """
    images = channels_last(images)
    gradient = channels_last(gradient)
    transformed = _transformed(kernels)
    kernels_gradient = torch.zeros_like(transformed)
    images_gradient = _like(images, images.shape[1]) if by_images else images.new_empty(0)
    for own, tiles, products in _groups(images, transformed, gradient):
        _of_images("products_of_outputs", gradient[own], products)
        if by_images:
            torch.bmm(products, transformed, out=tiles)
            _of_images("images_of_tiles", images_gradient[own], tiles)
        _of_images("tiles_of_images", images[own], tiles)
        torch.baddbmm(kernels_gradient, products.transpose(1, 2), tiles, out=kernels_gradient)
    result = empty_like_images(kernels, kernels.shape[1], 3, 3)
    call("winograd_kernels_of_transformed", result, kernels_gradient, *kernels.shape[:2])
    return images_gradient, result


@winograd.register_fake
def _(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    return _like(images, kernels.shape[0])


@winograd_backward.register_fake
def _(
    gradient: torch.Tensor, images: torch.Tensor, kernels: torch.Tensor, by_images: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    images_gradient = _like(images, images.shape[1]) if by_images else images.new_empty(0)
    return images_gradient, empty_like_images(kernels, kernels.shape[1], 3, 3)


def _like(images: torch.Tensor, channels: int) -> torch.Tensor:
    return empty_like_images(images, channels, *images.shape[2:])


def tiles_of(height: int, width: int) -> int:
    """The tiles of an image."""
    return -(-height // TILE) * -(-width // TILE)


def _of_images(name: str, images: torch.Tensor, tiles: torch.Tensor) -> None:
    """[images, channels, height, width], and [36, at least their tiles, channels]: one becomes the other."""
    count, channels, height, width = images.shape
    call(f"winograd_{name}", images, tiles, count, height, width, channels, tiles.stride(0))


def _transformed(kernels: torch.Tensor) -> torch.Tensor:
    """[36, outputs, channels]"""
    kernels = channels_last(kernels)
    made = kernels.new_empty(NUMBERS, *kernels.shape[:2])
    call("winograd_transformed_kernels", kernels, made, *kernels.shape[:2])
    return made


def _groups(
    images: torch.Tensor, transformed: torch.Tensor, outputs: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """The images of each group, with memory for its tiles of the images and of the outputs, both [36, tiles and one more, channels].

    One more, of zeros: with a power of two from one of the 36 to the next all would fall on the same few lines of the cache.
    """
    count, channels, height, width = images.shape
    tiles = tiles_of(height, width)
    wanted = max(LEAST_TILES, 4 * transformed.numel() // REREAD)
    group = min(count, max(wanted // tiles, torch.get_num_threads()))
    memory: list[torch.Tensor] = []
    for start in range(0, count, group):
        own = slice(start, min(start + group, count))
        rows = (own.stop - start) * tiles + 1
        if not memory or memory[0].shape[1] != rows:
            memory = [images.new_empty(NUMBERS, rows, each) for each in (channels, outputs.shape[1])]
            for own_memory in memory:
                own_memory[:, -1].zero_()
        yield own, memory[0], memory[1]
