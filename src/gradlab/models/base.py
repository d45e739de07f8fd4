"""The registry of models, and what they share."""

from typing import TYPE_CHECKING, Protocol

from gradlab.data.spec import DataSpec
from gradlab.registry import Registry

if TYPE_CHECKING:
    from torch import nn


class Model(Protocol):
    """What every entry of ``MODELS`` has. Its file imports torch inside ``build`` only: checking needs no torch."""

    @property
    def name(self) -> str: ...

    def check(self, spec: DataSpec) -> None:
        """Raise ``ConfigError`` where this model cannot take these images."""

    def build(self, spec: DataSpec) -> "nn.Module":
        """A network from float images [batch, channels, height, width] to logits [batch, classes]."""


MODELS: Registry[Model] = Registry("model")

ACTIVATIONS = ("relu", "tanh", "sigmoid")


def activation(name: str) -> "nn.Module":
    """The activation layer called ``name``, one of ``ACTIVATIONS``."""
    from torch import nn

    layers: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    return layers[name]()
