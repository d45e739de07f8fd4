"""Multi-layer perceptron of any depth and width."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number, check_option
from gradlab.data.spec import DataSpec
from gradlab.models.base import ACTIVATIONS, MODELS, activation

if TYPE_CHECKING:
    from torch import nn


MAX_UNITS = 1_000_000


@MODELS.register("mlp")
@dataclass(frozen=True)
class MLP:
    """Fully connected layers with an activation between them.

    hidden: units of each hidden layer, each from 1 to a million, as ``[128, 128]``; ``[]`` is logistic regression.
    activation: ``relu``, ``tanh`` or ``sigmoid``.
    """

    name: str
    hidden: list[int]
    activation: str

    def __post_init__(self) -> None:
        check_number(self, "hidden", at_least=1, at_most=MAX_UNITS)
        check_option(self, "activation", ACTIVATIONS)

    def check(self, spec: DataSpec) -> None:
        """Takes any image."""

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        layers: list[nn.Module] = [nn.Flatten()]
        width = spec.pixels
        for units in self.hidden:
            layers += [nn.Linear(width, units), activation(self.activation)]
            width = units
        return nn.Sequential(*layers, nn.Linear(width, len(spec.classes)))
