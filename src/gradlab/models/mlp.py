"""Multi-layer perceptron of any depth and width."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number, check_option
from gradlab.data.spec import DataSpec
from gradlab.models.base import ACTIVATIONS, MODELS, activation
from gradlab.models.output import OUTPUTS, check_output, last_layers

if TYPE_CHECKING:
    from torch import nn


MAX_UNITS = 1_000_000


@MODELS.register("mlp")
@dataclass(frozen=True)
class MLP:
    """Fully connected layers with an activation between them.

    hidden: units of each hidden layer, each from 1 to a million, as ``[128, 128]``; ``[]`` is logistic regression.
    activation: ``relu``, ``tanh`` or ``sigmoid``.
    dropout: share of the units of each hidden layer that is left out in a step, in [0, 1); 1 − keep_prob.
    output: ``softmax``, one logit to a class; or ``sigmoid``, one for the second of two classes (see ``last_layers``).
    """

    name: str
    hidden: list[int]
    activation: str
    dropout: float
    output: str

    def __post_init__(self) -> None:
        check_number(self, "hidden", at_least=1, at_most=MAX_UNITS)
        check_option(self, "activation", ACTIVATIONS)
        check_number(self, "dropout", at_least=0, below=1)
        check_option(self, "output", OUTPUTS)

    def check(self, spec: DataSpec) -> None:
        check_output(self.name, self.output, spec)

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        layers: list[nn.Module] = [nn.Flatten()]
        width = spec.pixels
        for units in self.hidden:
            layers += [nn.Linear(width, units), activation(self.activation)]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
            width = units
        return nn.Sequential(*layers, *last_layers(width, self.output, spec))
