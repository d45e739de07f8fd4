"""What pixels are: brightness, contrast, saturation, hue, sharpness, and the operations on levels.

Images are floats [batch, channels, height, width] from 0 to 255; one channel is grey, three are red, green and blue. Numbers
are one for each image, [batch].
"""

import torch

WHITE = 255.0
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as Pillow's and torchvision's are


def toward(images: torch.Tensor, other: torch.Tensor | float, factor: torch.Tensor) -> torch.Tensor:
    """``other`` at factor 0, the image at 1, and beyond it above; cut off at black and white."""
    factor = factor.to(images.dtype)[:, None, None, None]
    return (images * factor).add_((1 - factor) * other).clamp_(0, WHITE)


def grey(images: torch.Tensor) -> torch.Tensor:
    """Luma, [batch, 1, height, width]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    mixed = red * GREY_WEIGHTS[0] + green * GREY_WEIGHTS[1] + blue * GREY_WEIGHTS[2]
    return mixed[:, None]


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return toward(images, 0.0, factor)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return toward(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Grey images stay as they are."""
    return images if images.shape[1] == 1 else toward(images, grey(images), factor)


def hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """The hue moved by ``turn`` colour circles, value and saturation (of HSV) kept."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # In sixths of the circle: 0 red, 2 green, 4 blue; any place for grey. Products with 0 and 1 are ten times as fast on a
    # CPU as ``where``.
    reddest = value == red
    greenest = (value == green) & ~reddest
    bluest = ~(reddest | greenest)
    place = (green - blue).mul_(reddest)
    place.addcmul_(blue - red + 2 * chroma, greenest.to(images.dtype))
    place.addcmul_(red - green + 4 * chroma, bluest.to(images.dtype))
    place = place.div_(chroma.clamp(min=1e-6)).add_(6 * turn.to(images.dtype)[:, None, None])
    # A channel falls from the value by the chroma where the hue is far from its own colour.
    channels = []
    for own in (5.0, 3.0, 1.0):
        distance = place + own
        distance.sub_((distance / 6).floor_().mul_(6))
        channels.append(value - torch.minimum(distance, 4 - distance).clamp_(0, 1).mul_(chroma))
    return torch.stack(channels, 1)


def sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Towards (below 1) or away from (above) a blur by 3 × 3 with weights 1 and 5 in the middle; the rim stays."""
    height, width = images.shape[2:]
    if min(height, width) <= 2:
        return images
    blurred = images.clone()
    rows = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    ones = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    blurred[:, :, 1:-1, 1:-1] = (ones + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return toward(images, blurred, factor)


def posterize(images: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    """Levels without their last ``dropped`` bits."""
    step = torch.exp2(dropped.to(images.dtype))[:, None, None, None]
    return (images / step).floor_().mul_(step)


def solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Levels from ``threshold`` on, turned to their negative."""
    return torch.where(images >= threshold.to(images.dtype)[:, None, None, None], WHITE - images, images)


def autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Each channel spread over 0 to 255; one of a single level stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    low = torch.where(flat, 0.0, low)
    return ((images - low) * (WHITE / torch.where(flat, WHITE, high - low))).clamp_(0, WHITE)


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Each channel's levels, fractions dropped, mapped so that all occur about as often; as Pillow does, by whole numbers."""
    levels = images.long().flatten(0, 1).flatten(1)  # [planes, pixels]
    planes, pixels = levels.shape
    places = (torch.arange(planes, device=images.device)[:, None] * 256 + levels).view(-1)
    ones = torch.ones_like(places)
    counts = torch.zeros(planes * 256, dtype=torch.int64, device=images.device).scatter_add_(0, places, ones)
    counts = counts.view(planes, 256)
    last = counts.gather(1, levels.amax(1, keepdim=True))
    step = (pixels - last) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    mapped = torch.where(step == 0, levels, table.gather(1, levels))
    return mapped.view(images.shape).to(images.dtype)
