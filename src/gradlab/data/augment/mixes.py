"""Two images in one, with the labels of both.

The other image is one of the same batch: the batch is brought into a random order, and each image is mixed with the next.
What an image is mixed with so follows from (seed, epoch) and the images of its batch, not from their order in it. The label
with the larger share comes first, so that the training accuracy counts the answers that name the image seen more of.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.data.augment.base import AUGMENTATIONS, Scene, need_an_area
from gradlab.data.spec import DataSpec

if TYPE_CHECKING:
    from gradlab.data.device import Batch


class OfTheBatch:
    """The usual answers of those that mix."""

    lasting = 0
    mixes = True


@AUGMENTATIONS.register("mixup")
@dataclass(frozen=True)
class Mixup(OfTheBatch):
    """Mixup: λ of one image and 1 − λ of another, λ ~ Beta(alpha, alpha) for each image (Zhang et al., 2018).

    https://arxiv.org/abs/1710.09412. The larger of the two shares is the image's own: as each image is mixed into exactly one
    other, every pair is as likely as if either could be, and each image is the larger part of one in every epoch.

    alpha: > 0; 1 makes every λ equally likely, less leaves most images nearly alone.
    probability: of an image to be mixed, in [0, 1].
    """

    name: str
    alpha: float
    probability: float

    @property
    def numbers(self) -> int:
        return 3

    def __post_init__(self) -> None:
        check_number(self, "alpha", above=0)
        check_number(self, "probability", at_least=0, at_most=1)

    def check(self, spec: DataSpec) -> None:
        """Any images, and points too: theirs is a convex combination."""

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        import torch

        from gradlab.data.augment.operations import mixing

        order, chance, number = scene.numbers
        share = mixing.beta(self.alpha, number).where(chance < self.probability, 1.0)
        share = torch.maximum(share, 1 - share)
        return mixing.blended(batch, mixing.partners(order), share.to(scene.dtype))


@AUGMENTATIONS.register("cutmix")
@dataclass(frozen=True)
class CutMix(OfTheBatch):
    """CutMix: a box of one image is replaced by the same box of another (Yun et al., 2019).

    https://arxiv.org/abs/1905.04899. The box has the image's shape and the share 1 − λ of its area, λ ~ Beta(alpha, alpha)
    for each image; its centre may be any pixel, what reaches over the edge is cut off, and the labels' shares are those of
    the pixels that remain.

    alpha: > 0; 1 makes every λ equally likely.
    probability: of an image to be mixed, in [0, 1].
    """

    name: str
    alpha: float
    probability: float

    @property
    def numbers(self) -> int:
        return 5

    def __post_init__(self) -> None:
        check_number(self, "alpha", above=0)
        check_number(self, "probability", at_least=0, at_most=1)

    def check(self, spec: DataSpec) -> None:
        need_an_area(self.name, spec)

    def apply(self, batch: "Batch", scene: Scene) -> "Batch":
        from gradlab.data.augment.operations import mixing

        order, chance, number, down, right = scene.numbers
        share = mixing.beta(self.alpha, number).where(chance < self.probability, 1.0)
        return mixing.patched(batch, mixing.partners(order), share, down, right, scene.dtype)
