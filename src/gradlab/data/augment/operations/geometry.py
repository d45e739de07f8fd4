"""Where pixels go: shifts and mirrors, which are exact, and affine maps, which resample."""

import torch
from torch.nn import functional as F

from gradlab.data.draws import below

PADDING_MODES = {"black": "zeros", "edge": "border", "reflect": "reflection"}


def between(low: float, high: float, uniforms: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1) brought to [low, high)."""
    return low + (high - low) * uniforms


def shifted(images: torch.Tensor, uniforms: torch.Tensor, down: int, right: int, border: str) -> torch.Tensor:
    """Each image padded by ``down`` rows and ``right`` columns on both sides and cropped to its size at a random place.

    uniforms: [2, batch]; for the first row and the first column of the crop.
    """
    top, left = below(2 * down + 1, uniforms[0]), below(2 * right + 1, uniforms[1])
    return cropped(padded(images, down, right, border), top, left, images.shape[2], images.shape[3])


def padded(images: torch.Tensor, down: int, right: int, border: str) -> torch.Tensor:
    """``down`` more rows above and below and ``right`` more columns on both sides, of any dtype."""
    if border == "black":
        return F.pad(images, (right, right, down, down))
    for dimension, more in ((2, down), (3, right)):
        side = images.shape[dimension]
        places = torch.arange(-more, side + more, device=images.device)
        if border == "reflect":
            places = (side - 1) - (side - 1 - places.abs()).abs()
        images = images.index_select(dimension, places.clamp(0, side - 1))
    return images


def cropped(images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """From each image the part of ``height`` × ``width`` whose first pixel is at (``top``, ``left``); both int64 [batch].

    A row of a crop is ``width`` neighbouring numbers in memory, so the crops are one selection among all such windows:
    five times as fast on a CPU as a gather of pixels.
    """
    batch, channels, full_height, full_width = images.shape
    windows = images.reshape(-1).unfold(0, width, 1)
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * full_height
    rows = planes + top[:, None, None] + torch.arange(height, device=images.device)
    starts = rows * full_width + left[:, None, None]
    return windows.index_select(0, starts.view(-1)).view(batch, channels, height, width)


def mirrored(images: torch.Tensor, chosen: torch.Tensor, dimension: int) -> torch.Tensor:
    """Images turned round along ``dimension`` (3: left and right) where ``chosen``, bool [batch].

    A selection among both copies: a quarter of the time that ``where`` takes on a CPU.
    """
    batch = len(images)
    both = torch.cat([images, images.flip(dimension)])
    return both.index_select(0, torch.arange(batch, device=images.device) + batch * chosen)


def affine(
    degrees: torch.Tensor | float = 0.0,
    down: torch.Tensor | float = 0.0,
    right: torch.Tensor | float = 0.0,
    scale: torch.Tensor | float = 1.0,
    shear: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """For every image the map from a pixel of the result to its place in the source, [batch, 2, 3].

    Coordinates are (x, y, 1) in pixels from the image's centre, y down. The image is sheared along x by ``shear`` degrees,
    turned by ``degrees`` (clockwise as one looks at it), scaled, then moved; as torchvision's ``affine`` does.
    One of the arguments is a tensor [batch] at least.
    """
    arguments = (degrees, down, right, scale, shear)
    like = next(each for each in arguments if isinstance(each, torch.Tensor))
    # Filled on the device: a copy from the host would be waited for.
    angle, down, right, scale, slant = (
        each if isinstance(each, torch.Tensor) else torch.full_like(like, each) for each in arguments
    )
    cos, sin, tan = angle.deg2rad().cos(), angle.deg2rad().sin(), slant.deg2rad().tan()
    # Forward: scale · [[cos, −cos·tan − sin], [sin, −sin·tan + cos]]; its determinant is scale².
    across = torch.stack([cos - sin * tan, sin + cos * tan]) / scale
    along = torch.stack([-sin, cos]) / scale
    moved = torch.stack([-(across[0] * right + across[1] * down), -(along[0] * right + along[1] * down)])
    return torch.stack([torch.stack([*across, moved[0]], -1), torch.stack([*along, moved[1]], -1)], -2)


def warped(images: torch.Tensor, matrices: torch.Tensor, interpolation: str, border: str = "black") -> torch.Tensor:
    """Float images resampled by ``matrices`` of ``affine``. Black outside is mixed into the edge by ``bilinear``."""
    batch, _, height, width = images.shape
    matrices = matrices.to(images.dtype)
    y = torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2
    x = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    # In halves of the side, as grid_sample counts. Sums of rows and columns: affine_grid's matrix product takes longer.
    grid = torch.empty(batch, height, width, 2, dtype=images.dtype, device=images.device)
    for axis, side in ((0, width), (1, height)):
        rows, columns, move = (matrices[:, axis, place, None] * (2 / side) for place in (1, 0, 2))
        torch.add((rows * y)[:, :, None], (columns * x + move)[:, None, :], out=grid[..., axis])
    mode = PADDING_MODES[border]
    return F.grid_sample(images, grid, mode=interpolation, padding_mode=mode, align_corners=False)
