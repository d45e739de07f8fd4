"""Policies: operations chosen at random from one list."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number, check_option
from gradlab.data.augment.base import AUGMENTATIONS, INTERPOLATIONS, OfEachImage, Scene, need_an_area, need_colours
from gradlab.data.spec import DataSpec

if TYPE_CHECKING:
    from gradlab.data.device import Batch

LEVELS = 31
"""Strengths of an operation, as in both papers: 0 to 30."""


@AUGMENTATIONS.register("trivial_augment")
@dataclass(frozen=True)
class TrivialAugment(OfEachImage):
    """TrivialAugment, wide: one of 14 operations at one of 31 strengths, all equally likely (Müller and Hutter, 2021).

    https://arxiv.org/abs/2103.10158. Nothing, shear, translation and rotation (either way), brightness, saturation, contrast
    and sharpness (less or more), posterize, solarize, autocontrast, equalize. Saturation leaves grey images alone.

    translate: pixels at the highest strength, ≥ 0.
    interpolation: ``nearest`` pixel, as published, or ``bilinear``.
    """

    name: str
    translate: int
    interpolation: str

    @property
    def numbers(self) -> int:
        return 3

    def __post_init__(self) -> None:
        check_number(self, "translate", at_least=0)
        check_option(self, "interpolation", INTERPOLATIONS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)
        need_colours(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations.policy import OPERATIONS, Range, operated
        from gradlab.data.draws import below

        which, level, sign = scene.numbers
        wide = Range(shear=0.99, down=self.translate, right=self.translate, degrees=135, blend=0.99, bits=6)
        images = operated(
            batch.images.to(scene.dtype),
            below(len(OPERATIONS), which),
            below(LEVELS, level) / (LEVELS - 1),
            sign < 0.5,
            wide,
            self.interpolation,
        )
        return batch._replace(images=images)


@AUGMENTATIONS.register("rand_augment")
@dataclass(frozen=True)
class RandAugment(OfEachImage):
    """RandAugment: some of TrivialAugment's 14 operations, one after the other, at one strength (Cubuk et al., 2020).

    https://arxiv.org/abs/1909.13719. At the highest strength: shear 0.3, translation 150/331 of the side, rotation 30°,
    factors 0.1 or 1.9, posterize to 4 bits, solarize at 0. Saturation leaves grey images alone.

    operations: how many to an image, from 1 to 10.
    magnitude: their strength, from 0 to 30.
    interpolation: ``nearest`` pixel, as published, or ``bilinear``.
    """

    name: str
    operations: int
    magnitude: int
    interpolation: str

    @property
    def numbers(self) -> int:
        return 2 * self.operations

    def __post_init__(self) -> None:
        check_number(self, "operations", at_least=1, at_most=10)
        check_number(self, "magnitude", at_least=0, at_most=LEVELS - 1)
        check_option(self, "interpolation", INTERPOLATIONS)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)
        need_colours(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        import torch

        from gradlab.data.augment.operations.policy import OPERATIONS, Range, operated
        from gradlab.data.draws import below

        images = batch.images.to(scene.dtype)
        height, width = images.shape[2:]
        published = Range(
            shear=0.3, down=150 / 331 * height, right=150 / 331 * width, degrees=30, blend=0.9, bits=4
        )  # fmt: skip
        for which, sign in scene.numbers.split(2):
            strength = torch.full_like(sign, self.magnitude / (LEVELS - 1))
            chosen = below(len(OPERATIONS), which)
            images = operated(images, chosen, strength, sign < 0.5, published, self.interpolation)
        return batch._replace(images=images)
