"""The network of the fastest training to 94 % on CIFAR-10: small, whitened, and the identity at first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.models.base import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("speed")
@dataclass(frozen=True)
class Speed:
    """The CIFAR network of airbench (Jordan, 2024, https://arxiv.org/abs/2404.00498): 1,972,792 parameters on CIFAR-10.

    A 2×2 convolution whose frozen filters whiten the image's patches (they are computed from 5,000 training images, so no
    initialiser touches them; its bias is trained throughout, where airbench stops after three epochs), then blocks of
    convolution, 2×2 max pool, BatchNorm, GELU, convolution, BatchNorm, GELU; the maximum over the image, a linear layer,
    and logits times 1/9. BatchNorm has no scale. With ``init=default`` the 3×3 convolutions begin as the identity (the
    paper's dirac initialisation); any other initialiser replaces that.

    Images too small for the pools get a border of one pixel.

    widths: channels of each block, each ≥ 1, as ``[64, 256, 256]``.
    """

    name: str
    widths: list[int]

    def __post_init__(self) -> None:
        if not self.widths:
            raise FieldError("widths", "must name at least one block, as [64, 256, 256]")
        check_number(self, "widths", at_least=1)

    def _padding(self, spec: DataSpec) -> int:
        return int(min(spec.height, spec.width) - 1 < 2 ** len(self.widths))

    def check(self, spec: DataSpec) -> None:
        blocks, least = len(self.widths), 2 ** len(self.widths) - 1
        if min(spec.height, spec.width) < least:
            raise ConfigError(
                f"model=speed with {blocks} blocks halves the image {blocks} times and needs at least {least}×{least} "
                f"pixels; data={spec.name} has {spec.height}×{spec.width}. Give model.widths fewer entries, or choose "
                "model=mlp."
            )

    def build(self, spec: DataSpec) -> "nn.Module":
        from gradlab.models.networks.speed import SpeedNet

        return SpeedNet(spec.channels, self.widths, len(spec.classes), self._padding(spec))
