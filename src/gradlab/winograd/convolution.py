"""Winograd's convolution as two operations of torch's, ``gradlab::winograd`` and its derivative.

Transformed tiles are four times the pixels, so they are made of a few images at a time, which stay in the processor's cache:
transformed, multiplied for each of a tile's 36 numbers, and transformed back.
"""

from collections.abc import Iterator

import torch

from gradlab.winograd.transforms import NUMBERS, of_images, of_kernels, tiles_of

LEAST_TILES = 64
"""At once: fewer, and a product of matrices is mostly reading its second factor."""
REREAD = 2**17
"""Bytes of transformed kernels for each tile at once: the kernels are read anew for each group of tiles."""


@torch.library.custom_op("gradlab::winograd", mutates_args=())
def winograd(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """``F.conv2d(images, kernels, padding=1)``.

    Args:
        images: [images, channels, height, width], float32 on the CPU.
        kernels: [outputs, channels, 3, 3]; both numbers of channels are multiples of ``transforms.LANES``.

    Returns:
        [images, outputs, height, width], channels last.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    transformed = _transformed(kernels)
    outputs = _like(images, len(kernels))
    for own, tiles, products in _groups(images, transformed, outputs):
        of_images("tiles_of_images", images[own], tiles)
        torch.bmm(tiles, transformed.transpose(1, 2), out=products)
        of_images("outputs_of_products", outputs[own], products)
    return outputs


@torch.library.custom_op("gradlab::winograd_backward", mutates_args=())
def winograd_backward(
    gradient: torch.Tensor, images: torch.Tensor, kernels: torch.Tensor, by_images: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients by images and by kernels of what has ``gradient`` by ``winograd(images, kernels)``.

    Args:
        gradient: [images, outputs, height, width].
        images, kernels: see ``winograd``.
        by_images: whether the first is wanted; else it is empty.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    transformed = _transformed(kernels)
    kernels_gradient = torch.zeros_like(transformed)
    images_gradient = _like(images, images.shape[1]) if by_images else images.new_empty(0)
    for own, tiles, products in _groups(images, transformed, gradient):
        of_images("products_of_outputs", gradient[own], products)
        if by_images:
            torch.bmm(products, transformed, out=tiles)
            of_images("images_of_tiles", images_gradient[own], tiles)
        of_images("tiles_of_images", images[own], tiles)
        torch.baddbmm(kernels_gradient, products.transpose(1, 2), tiles, out=kernels_gradient)
    result = torch.empty_like(kernels, memory_format=torch.channels_last)
    of_kernels("kernels_of_transformed", result, kernels_gradient)
    return images_gradient, result


@winograd.register_fake
def _(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    return _like(images, kernels.shape[0])


@winograd_backward.register_fake
def _(
    gradient: torch.Tensor, images: torch.Tensor, kernels: torch.Tensor, by_images: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    images_gradient = _like(images, images.shape[1]) if by_images else images.new_empty(0)
    return images_gradient, torch.empty_like(kernels, memory_format=torch.channels_last)


def _like(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Images of so many channels, their numbers unset; channels last whatever the sizes, where torch says of [.., 1, 1] that it is."""
    count, _, height, width = images.shape
    return images.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


def _transformed(kernels: torch.Tensor) -> torch.Tensor:
    """[36, outputs, channels]"""
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    made = kernels.new_empty(NUMBERS, *kernels.shape[:2])
    of_kernels("transformed_kernels", kernels, made)
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
            memory = [images.new_zeros(NUMBERS, rows, each) for each in (channels, outputs.shape[1])]
        yield own, memory[0], memory[1]
