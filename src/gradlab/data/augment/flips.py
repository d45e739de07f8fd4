"""Mirrored images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_option
from gradlab.data.augment.base import AUGMENTATIONS, OfEachImage, Scene, need_an_area
from gradlab.data.spec import DataSpec

if TYPE_CHECKING:
    from gradlab.data.device import Batch

AXES_OF = {"horizontal": (3,), "vertical": (2,), "both": (2, 3)}


@AUGMENTATIONS.register("flip")
@dataclass(frozen=True)
class Flip(OfEachImage):
    """Mirrors every second image. For photographs; a mirrored digit or letter is another one.

    axis: ``horizontal`` (left and right change places), ``vertical``, or ``both``, each decided by itself.
    alternating: false decides anew in every epoch; true decides for epoch 0 and from then on mirrors each image in every
        second epoch, so that two epochs show all of both sides (Jordan, 2024, https://arxiv.org/abs/2404.00498).
    """

    name: str
    axis: str
    alternating: bool

    @property
    def numbers(self) -> int:
        return len(AXES_OF.get(self.axis, ()))

    @property
    def lasting(self) -> int:  # type: ignore[override]
        return self.numbers if self.alternating else 0

    def __post_init__(self) -> None:
        check_option(self, "axis", AXES_OF)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.geometry import mirrored

        images = batch.images
        for dimension, number in zip(AXES_OF[self.axis], scene.numbers, strict=True):
            chosen = number < 0.5
            if self.alternating and scene.epoch % 2:
                chosen = ~chosen
            images = mirrored(images, chosen, dimension)
        return batch._replace(images=images)
