"""Whole images moved by whole pixels: no pixel is changed, so these are exact and cheap."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number, check_option
from gradlab.data.augment.base import AUGMENTATIONS, BORDERS, OfEachImage, Scene, need_an_area
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError

if TYPE_CHECKING:
    from gradlab.data.device import Batch


@AUGMENTATIONS.register("crop")
@dataclass(frozen=True)
class Crop(OfEachImage):
    """Random crop of the padded image, as large as the image was (Krizhevsky, 2009; He et al., 2016, for CIFAR).

    padding: pixels on each side, ≥ 0 and less than the image's sides; all (2·padding + 1)² positions are equally likely.
    border: what the padding holds: ``black`` (0, which after normalisation is not 0), the ``edge`` pixels repeated, or the
        image in a mirror (``reflect``, the edge pixels not repeated).
    """

    name: str
    padding: int
    border: str

    @property
    def numbers(self) -> int:
        return 2

    def __post_init__(self) -> None:
        check_number(self, "padding", at_least=0)
        check_option(self, "border", BORDERS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)
        if self.padding >= min(spec.height, spec.width):
            raise FieldError(
                "padding",
                f"must be less than the sides of the images, not {self.padding}: data={spec.name} has "
                f"{spec.height}×{spec.width} pixels, and a crop could miss the image",
            )

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.geometry import shifted

        return batch._replace(images=shifted(batch.images, scene.numbers, self.padding, self.padding, self.border))


@AUGMENTATIONS.register("translate")
@dataclass(frozen=True)
class Translate(OfEachImage):
    """Moves the image by whole pixels, up to a share of its height and width; every distance is equally likely.

    share: of the side, in [0, 1); rounded to whole pixels.
    border: what comes in: ``black`` (0), the ``edge`` pixels repeated, or the image in a mirror (``reflect``).
    """

    name: str
    share: float
    border: str

    @property
    def numbers(self) -> int:
        return 2

    def __post_init__(self) -> None:
        check_number(self, "share", at_least=0, below=1)
        check_option(self, "border", BORDERS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)
        furthest = [round(self.share * side) for side in (spec.height, spec.width)]
        if self.share and not any(furthest):
            raise FieldError(
                "share",
                f"of {self.share:g} moves nothing: it is less than half a pixel of data={spec.name}, which has "
                f"{spec.height}×{spec.width}",
            )
        if furthest[0] >= spec.height or furthest[1] >= spec.width:
            raise FieldError("share", f"of {self.share:g} can move an image of data={spec.name} out of sight")

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.geometry import shifted

        down, right = (round(self.share * side) for side in batch.images.shape[2:])
        return batch._replace(images=shifted(batch.images, scene.numbers, down, right, self.border))
