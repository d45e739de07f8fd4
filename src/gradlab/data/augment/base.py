"""The registry of augmentations, and what they share."""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch

    from gradlab.data.device import Batch

BORDERS = ("black", "edge", "reflect")
INTERPOLATIONS = ("bilinear", "nearest")
FILLS = ("black", "mean")


class Scene(NamedTuple):
    """What an augmentation is given beside the images.

    epoch: the data epoch, from 0.
    numbers: uniform in [0, 1), float32 [numbers, batch]; those of an image are its own, whatever batch it is in.
    mean: of each channel over the training images, rounded to a level, uint8 [channels, 1, 1].
    dtype: of float images.
    """

    epoch: int
    numbers: "torch.Tensor"
    mean: "torch.Tensor"
    dtype: "torch.dtype"


class Augmentation(Protocol):
    """What every entry of ``AUGMENTATIONS`` has. Its file imports torch inside ``apply`` only.

    numbers: how many random numbers each image needs.
    lasting: how many of them, the first ones, are the same in every epoch.
    mixes: whether images and labels of a batch are mixed; such an augmentation is the last.
    """

    @property
    def name(self) -> str: ...

    @property
    def numbers(self) -> int: ...

    @property
    def lasting(self) -> int: ...

    @property
    def mixes(self) -> bool: ...

    def check(self, spec: DataSpec) -> None:
        """Raise ``FieldError`` or ``ConfigError`` where these images cannot be augmented so, or would stay as they are."""

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        """The batch, augmented. Images are [batch, channels, height, width] from 0 to 255: bytes as stored, or floats.

        An augmentation that moves pixels keeps the type; one that calculates with them makes floats of ``scene.dtype``.
        """


AUGMENTATIONS: Registry[Augmentation] = Registry("augment")


class OfEachImage:
    """The usual answers: images are augmented one by one, and everything is drawn anew in every epoch."""

    lasting = 0
    mixes = False


def need_an_area(name: str, spec: DataSpec) -> None:
    """Raise ``ConfigError`` where images have no pixels side by side."""
    if min(spec.height, spec.width) < 2:
        raise ConfigError(
            f"augment={name} needs images of at least 2×2 pixels, and data={spec.name} has {spec.height}×{spec.width}. "
            "Leave it out."
        )


def need_colours(name: str, spec: DataSpec) -> None:
    """Raise ``ConfigError`` where the channels are neither one of grey nor red, green and blue."""
    if spec.channels not in (1, 3):
        raise ConfigError(
            f"augment={name} needs grey images (1 channel) or colour images (3), and data={spec.name} has "
            f"{spec.channels} channels. Leave it out."
        )
