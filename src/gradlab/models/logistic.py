"""Multinomial logistic regression: one linear layer from pixels to logits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_option
from gradlab.data.spec import DataSpec
from gradlab.models.base import MODELS
from gradlab.models.output import OUTPUTS, check_output, last_layers

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("logistic")
@dataclass(frozen=True)
class Logistic:
    """Softmax regression. Its loss is convex: every initialisation leads to the same minimum.

    output: ``softmax``, one logit to a class; or ``sigmoid``, one for the second of two classes (see ``last_layers``).
    """

    name: str
    output: str

    def __post_init__(self) -> None:
        check_option(self, "output", OUTPUTS)

    def check(self, spec: DataSpec) -> None:
        check_output(self.name, self.output, spec)

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        return nn.Sequential(nn.Flatten(), *last_layers(spec.pixels, self.output, spec))
