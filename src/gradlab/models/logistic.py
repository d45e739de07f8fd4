"""Multinomial logistic regression: one linear layer from pixels to logits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.models.base import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("logistic")
@dataclass(frozen=True)
class Logistic:
    """Softmax regression. Its loss is convex: every initialisation leads to the same minimum."""

    name: str

    def check(self, spec: DataSpec) -> None:
        """Takes any image."""

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(spec.pixels, len(spec.classes)))
