"""Colours changed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.data.augment.base import AUGMENTATIONS, OfEachImage, Scene, need_colours
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError

if TYPE_CHECKING:
    from gradlab.data.device import Batch


@AUGMENTATIONS.register("jitter")
@dataclass(frozen=True)
class Jitter(OfEachImage):
    """Colour jitter: brightness, contrast, saturation and hue, in this order, by numbers of each image's own.

    A strength s means a factor between max(0, 1 − s) and 1 + s, every one equally likely; 0 leaves the thing alone. Levels
    that leave the range from 0 to 255 are cut off after each of the four.

    brightness: strength, ≥ 0.
    contrast: strength, ≥ 0; about the image's mean grey.
    saturation: strength, ≥ 0; about the pixel's grey. 0 for grey images.
    hue: part of the colour circle, the most either way, in [0, 0.5]. 0 for grey images.
    """

    name: str
    brightness: float
    contrast: float
    saturation: float
    hue: float

    @property
    def numbers(self) -> int:
        return 4

    def __post_init__(self) -> None:
        for field in ("brightness", "contrast", "saturation"):
            check_number(self, field, at_least=0)
        check_number(self, "hue", at_least=0, at_most=0.5)

    def check(self, spec: DataSpec) -> None:
        need_colours(self.name, spec)
        for field in ("saturation", "hue"):
            if spec.channels == 1 and getattr(self, field):
                raise FieldError(
                    field, f"must be 0, not {getattr(self, field):g}: the images of data={spec.name} are grey"
                )

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations import colour
        from gradlab.data.augment.operations.geometry import between

        images = batch.images.to(scene.dtype)
        steps = (colour.brightness, colour.contrast, colour.saturation)
        strengths = (self.brightness, self.contrast, self.saturation)
        for change, strength, number in zip(steps, strengths, scene.numbers[:3], strict=True):
            if strength:
                images = change(images, between(max(0.0, 1 - strength), 1 + strength, number))
        if self.hue:
            images = colour.hue(images, between(-self.hue, self.hue, scene.numbers[3]))
        return batch._replace(images=images)
