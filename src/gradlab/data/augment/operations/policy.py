"""One of fourteen operations for each image: what TrivialAugment and RandAugment choose from."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from gradlab.data.augment.operations import colour
from gradlab.data.augment.operations.geometry import warped

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip


class Range(NamedTuple):
    """What the highest strength of each operation is.

    shear: pixels along one side for each along the other.
    down, right: translation in pixels.
    degrees: of the rotation.
    blend: how far the factor of brightness, saturation, contrast and sharpness lies from 1.
    bits: that posterize drops.
    """

    shear: float
    down: float
    right: float
    degrees: float
    blend: float
    bits: int


def operated(
    images: torch.Tensor,
    which: torch.Tensor,
    level: torch.Tensor,
    negative: torch.Tensor,
    highest: Range,
    interpolation: str,
) -> torch.Tensor:
    """Float images, 0 to 255, each after its own operation.

    which: place in ``OPERATIONS``, int64 [batch].
    level: strength, 0 to 1, float [batch].
    negative: whether those that have two directions go the other way, bool [batch].
    """
    signed = torch.where(negative, -level, level)
    factor = 1 + signed * highest.blend
    of = {operation: which == place for place, operation in enumerate(OPERATIONS)}
    images = _only((which > 0) & (which <= 5), warped, images, _matrices(images, of, signed, highest), interpolation)
    for name in ("brightness", "saturation", "contrast", "sharpness"):
        images = _only(of[name], getattr(colour, name), images, factor)
    images = _only(of["posterize"], colour.posterize, images, (level * highest.bits).round())
    images = _only(of["solarize"], colour.solarize, images, colour.WHITE * (1 - level))
    images = _only(of["autocontrast"], colour.autocontrast, images)
    return _only(of["equalize"], colour.equalize, images)


def _matrices(images: torch.Tensor, of: dict[str, torch.Tensor], signed: torch.Tensor, highest: Range) -> torch.Tensor:
    """The affine map of every image, [batch, 2, 3]; shears keep the upper left corner, as the published code does."""
    height, width = images.shape[2:]
    x_shear, y_shear = (signed * highest.shear * of[name] for name in ("shear_x", "shear_y"))
    x_move = (signed * highest.right).trunc() * of["translate_x"]
    y_move = (signed * highest.down).trunc() * of["translate_y"]
    radians = torch.deg2rad(signed * highest.degrees) * of["rotate"]
    cos, sin = radians.cos(), radians.sin()
    across = torch.stack([cos, x_shear - sin, x_shear * (height / 2) - x_move], -1)
    along = torch.stack([y_shear + sin, cos, y_shear * (width / 2) - y_move], -1)
    return torch.stack([across, along], -2)


def _waits(images: torch.Tensor) -> bool:
    """Whether Python would have to wait for the device to learn how many images are chosen."""
    return images.device.type != "cpu"


def _only(
    chosen: torch.Tensor, function: Callable[..., torch.Tensor], images: torch.Tensor, *numbers: torch.Tensor | str
) -> torch.Tensor:
    """``function`` applied to the chosen images. A CPU calculates those alone; a GPU all, as it would wait to count them."""
    if _waits(images):
        return torch.where(chosen[:, None, None, None], function(images, *numbers), images)
    rows = chosen.nonzero().squeeze(1)
    own = (number[rows] if isinstance(number, torch.Tensor) else number for number in numbers)
    return images.index_copy(0, rows, function(images[rows], *own))
