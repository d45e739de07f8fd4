"""A vision transformer for small images."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number, check_option
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.models.base import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("vit")
@dataclass(frozen=True)
class ViT:
    """Vision transformer (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929), normalised before each part.

    The image is cut into squares; a linear layer makes a token of each, and a learned vector says where it was. Blocks of
    self-attention and an MLP follow, then LayerNorm and a linear layer. Its own initialisation: Xavier's uniform one (query,
    key and value apart), biases 0, LeCun's normal one for the patches, standard deviation 0.02 for the learned vectors.

    patch: side of the squares in pixels, ≥ 1; must divide the image's height and width.
    depth: blocks, ≥ 1.
    width: numbers in a token, ≥ 1; a multiple of heads.
    heads: of each attention, ≥ 1.
    mlp_ratio: units of a block's MLP over width, > 0.
    dropout: after the positions, the attention and the MLP's layers, in [0, 1).
    pool: what the last layer reads: the ``mean`` of the tokens, or a class ``token`` that is learned and goes with them.
    """

    name: str
    patch: int
    depth: int
    width: int
    heads: int
    mlp_ratio: float
    dropout: float
    pool: str

    def __post_init__(self) -> None:
        for field in ("patch", "depth", "width", "heads"):
            check_number(self, field, at_least=1)
        check_number(self, "mlp_ratio", above=0)
        check_number(self, "dropout", at_least=0, below=1)
        check_option(self, "pool", ["mean", "token"])
        if self.width % self.heads:
            raise FieldError("width", f"must be a multiple of model.heads={self.heads}, not {self.width}")

    def check(self, spec: DataSpec) -> None:
        if spec.height % self.patch or spec.width % self.patch:
            common = math.gcd(spec.height, spec.width)
            sides = [str(side) for side in range(1, common + 1) if common % side == 0]
            raise ConfigError(
                f"model.patch={self.patch} does not divide the {spec.height}×{spec.width} images of data={spec.name} "
                f"into whole squares. Sides that do: {', '.join(sides)}."
            )

    def build(self, spec: DataSpec) -> "nn.Module":
        from gradlab.models.networks.vit import VisionTransformer

        return VisionTransformer(
            spec.image_shape,
            len(spec.classes),
            patch=self.patch,
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            hidden=max(1, round(self.mlp_ratio * self.width)),
            dropout=self.dropout,
            pool=self.pool,
        )
