"""Rectangles cut out of images."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_length, check_number, check_option
from gradlab.data.augment.base import AUGMENTATIONS, FILLS, OfEachImage, Scene, need_an_area
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError

if TYPE_CHECKING:
    from gradlab.data.device import Batch


@AUGMENTATIONS.register("cutout")
@dataclass(frozen=True)
class Cutout(OfEachImage):
    """A square hole at a random place; what reaches over the edge is lost (DeVries and Taylor, 2017).

    https://arxiv.org/abs/1708.04552

    size: side of the hole in pixels, ≥ 0, at most the image's shorter side. Its centre may be any pixel.
    fill: ``mean`` (the training images' mean of each channel, rounded to a level: what normalisation makes 0) or ``black``.
    """

    name: str
    size: int
    fill: str

    @property
    def numbers(self) -> int:
        return 2

    def __post_init__(self) -> None:
        check_number(self, "size", at_least=0)
        check_option(self, "fill", FILLS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)
        if self.size > min(spec.height, spec.width):
            raise FieldError(
                "size",
                f"must be at most the shorter side of the images, not {self.size}: data={spec.name} has "
                f"{spec.height}×{spec.width} pixels, and a hole could swallow the image",
            )

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.boxes import filled, inside
        from gradlab.data.draws import below

        height, width = batch.images.shape[2:]
        top = below(height, scene.numbers[0]) - self.size // 2
        left = below(width, scene.numbers[1]) - self.size // 2
        hole = inside(top, left, top + self.size, left + self.size, height, width)
        return batch._replace(images=filled(batch.images, hole, scene.mean if self.fill == "mean" else 0))


@AUGMENTATIONS.register("erase")
@dataclass(frozen=True)
class Erase(OfEachImage):
    """Random erasing: a hole of random size and shape, all of it inside the image (Zhong et al., 2020).

    https://arxiv.org/abs/1708.04896. A side that the shape would make longer than the image is cut to the image's; the
    published way draws such a hole anew.

    probability: of an image to have a hole, in [0, 1].
    area: the smallest and the largest share of the image, both in (0, 1].
    ratio: the smallest and the largest height over width, both > 0; equally likely on a logarithmic scale.
    fill: ``mean`` (the training images' mean of each channel, rounded to a level: what normalisation makes 0) or ``black``.
    """

    name: str
    probability: float
    area: list[float]
    ratio: list[float]
    fill: str

    @property
    def numbers(self) -> int:
        return 5

    def __post_init__(self) -> None:
        check_number(self, "probability", at_least=0, at_most=1)
        check_length(self, "area", 2)
        check_number(self, "area", above=0, at_most=1)
        check_length(self, "ratio", 2)
        check_number(self, "ratio", above=0)
        for field in ("area", "ratio"):
            low, high = getattr(self, field)
            if low > high:
                raise FieldError(field, f"must be the smaller number and then the larger, not [{low:g}, {high:g}]")
        check_option(self, "fill", FILLS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.boxes import filled, inside
        from gradlab.data.augment.operations.geometry import between

        height, width = batch.images.shape[2:]
        chance, area, ratio, down, right = scene.numbers
        area = between(self.area[0], self.area[1], area) * (height * width)
        ratio = between(math.log(self.ratio[0]), math.log(self.ratio[1]), ratio).exp()
        rows = (area * ratio).sqrt().round().clamp(0, height) * (chance < self.probability)
        columns = (area / ratio).sqrt().round().clamp(0, width)
        top = (down * (height - rows + 1)).floor()
        left = (right * (width - columns + 1)).floor()
        hole = inside(top, left, top + rows, left + columns, height, width)
        return batch._replace(images=filled(batch.images, hole, scene.mean if self.fill == "mean" else 0))
