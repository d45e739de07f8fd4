"""Images turned, scaled and sheared: resampled between their pixels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_length, check_number, check_option
from gradlab.data.augment.base import AUGMENTATIONS, BORDERS, INTERPOLATIONS, OfEachImage, Scene, need_an_area
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError

if TYPE_CHECKING:
    from gradlab.data.device import Batch


@AUGMENTATIONS.register("rotate")
@dataclass(frozen=True)
class Rotate(OfEachImage):
    """Turns the image about its centre.

    degrees: the most, either way, in [0, 180]; every angle up to it is equally likely.
    interpolation: ``bilinear`` or ``nearest`` pixel.
    border: what comes in at the corners: ``black`` (0), the ``edge`` pixels repeated, or the image in a mirror
        (``reflect``).
    """

    name: str
    degrees: float
    interpolation: str
    border: str

    @property
    def numbers(self) -> int:
        return 1

    def __post_init__(self) -> None:
        check_number(self, "degrees", at_least=0, at_most=180)
        check_option(self, "interpolation", INTERPOLATIONS)
        check_option(self, "border", BORDERS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.geometry import affine, between, warped

        matrices = affine(degrees=between(-self.degrees, self.degrees, scene.numbers[0]))
        return batch._replace(
            images=warped(batch.images.to(scene.dtype), matrices, self.interpolation, self.border),
        )


@AUGMENTATIONS.register("affine")
@dataclass(frozen=True)
class Affine(OfEachImage):
    """Turns, moves, scales and shears in one resampling, about the centre.

    degrees: of the rotation, the most either way, in [0, 180].
    translate: share of the height and width, the most either way, in [0, 1); parts of pixels are moved too.
    scale: the smallest and the largest factor of the size, both > 0.
    shear: degrees along the horizontal, the most either way, in [0, 90).
    interpolation: ``bilinear`` or ``nearest`` pixel.
    border: what comes in: ``black`` (0), the ``edge`` pixels repeated, or the image in a mirror (``reflect``).
    """

    name: str
    degrees: float
    translate: float
    scale: list[float]
    shear: float
    interpolation: str
    border: str

    @property
    def numbers(self) -> int:
        return 5

    def __post_init__(self) -> None:
        check_number(self, "degrees", at_least=0, at_most=180)
        check_number(self, "translate", at_least=0, below=1)
        check_length(self, "scale", 2)
        check_number(self, "scale", above=0)
        if self.scale[0] > self.scale[1]:
            raise FieldError("scale", f"must be the smaller factor and then the larger, not {list(self.scale)}")
        check_number(self, "shear", at_least=0, below=90)
        check_option(self, "interpolation", INTERPOLATIONS)
        check_option(self, "border", BORDERS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.geometry import affine, between, warped

        height, width = batch.images.shape[2:]
        turn, down, right, size, shear = scene.numbers
        matrices = affine(
            degrees=between(-self.degrees, self.degrees, turn),
            down=between(-self.translate * height, self.translate * height, down),
            right=between(-self.translate * width, self.translate * width, right),
            scale=between(self.scale[0], self.scale[1], size),
            shear=between(-self.shear, self.shear, shear),
        )
        return batch._replace(
            images=warped(batch.images.to(scene.dtype), matrices, self.interpolation, self.border),
        )
