"""The registry of models, and what they share."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gradlab.data.spec import DataSpec
from gradlab.registry import Registry
from gradlab.seeds import derive

if TYPE_CHECKING:
    import torch
    from torch import nn

PREPARATION_IMAGES = 5_000
"""How many training images a network that starts from images is given; as many as airbench takes."""


class Model(Protocol):
    """What every entry of ``MODELS`` has. Its file imports torch inside ``build`` only: checking needs no torch."""

    @property
    def name(self) -> str: ...

    def check(self, spec: DataSpec) -> None:
        """Raise ``ConfigError`` where this model cannot take these images."""

    def build(self, spec: DataSpec) -> "nn.Module":
        """A network from float images [batch, channels, height, width] to logits [batch, classes]."""


@runtime_checkable
class StartsFromImages(Protocol):
    """A network that sets some of its numbers from training images, once, after its initialisation and before training."""

    def start_from_images(self, images: "torch.Tensor") -> None:
        """``images``: floats [n, channels, height, width] on the CPU, normalised; the same ones in every run of a split."""


MODELS: Registry[Model] = Registry("model")


def build_network(model: Model, spec: DataSpec, seed: int) -> "nn.Module":
    """The network of ``model`` as its own initialisation (``init=default``) starts it, from the run's seed.

    Constructors draw from torch's global generator: it is lent to them, and put back as it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init", 1))
        return model.build(spec)


ACTIVATIONS = ("relu", "tanh", "sigmoid")


def activation(name: str) -> "nn.Module":
    """The activation layer called ``name``, one of ``ACTIVATIONS``."""
    from torch import nn

    layers: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    return layers[name]()
