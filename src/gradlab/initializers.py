"""Initialisers: how the weights of linear and convolution layers start. Biases start at 0; norm layers keep their own.

All draws come from one CPU generator of the run's seed, in the order of the layers, so that a seed gives the same
network on every device. n_in and n_out below are a layer's fan-in and fan-out: for a convolution, channels × kernel area.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gradlab.bounds import check_number, check_option
from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch


class Initializer(Protocol):
    """What every entry of ``INITIALIZERS`` has."""

    @property
    def name(self) -> str: ...

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        """Fill one weight, [n_out, n_in] or [channels out, channels in, height, width], in place."""


INITIALIZERS: Registry[Initializer] = Registry("init")


@INITIALIZERS.register("zeros")
@dataclass(frozen=True)
class Zeros:
    """All weights 0. Right for logistic regression; in a deeper network every unit of a layer stays the same."""

    name: str

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        weight.zero_()


@INITIALIZERS.register("normal")
@dataclass(frozen=True)
class Normal:
    """Gaussian with one standard deviation for all layers, whatever their width.

    std: standard deviation, > 0.
    """

    name: str
    std: float

    def __post_init__(self) -> None:
        check_number(self, "std", above=0)

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        weight.normal_(0.0, self.std, generator=generator)


@INITIALIZERS.register("xavier")
@dataclass(frozen=True)
class Xavier:
    """Variance gain²·2/(n_in + n_out) (Glorot and Bengio, 2010, https://proceedings.mlr.press/v9/glorot10a.html).

    gain: multiplies the standard deviation, > 0; 1 for linear and tanh layers.
    distribution: ``uniform`` or ``normal``.
    """

    name: str
    gain: float
    distribution: str

    def __post_init__(self) -> None:
        check_number(self, "gain", above=0)
        check_option(self, "distribution", ["uniform", "normal"])

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        from torch.nn import init

        fill = init.xavier_uniform_ if self.distribution == "uniform" else init.xavier_normal_
        fill(weight, gain=self.gain, generator=generator)


@INITIALIZERS.register("he")
@dataclass(frozen=True)
class He:
    """Variance gain²·2/n, for layers followed by a ReLU (He et al., 2015, https://arxiv.org/abs/1502.01852).

    gain: multiplies He's standard deviation, > 0; 1 is He's own.
    mode: n is n_in (``fan_in``, keeps the size of activations) or n_out (``fan_out``, of gradients).
    distribution: ``normal`` or ``uniform``.
    """

    name: str
    gain: float
    mode: str
    distribution: str

    def __post_init__(self) -> None:
        check_number(self, "gain", above=0)
        check_option(self, "mode", ["fan_in", "fan_out"])
        check_option(self, "distribution", ["normal", "uniform"])

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        from typing import Literal, cast

        from torch.nn import init

        fill = init.kaiming_normal_ if self.distribution == "normal" else init.kaiming_uniform_
        fill(weight, mode=cast(Literal["fan_in", "fan_out"], self.mode), nonlinearity="relu", generator=generator)
        weight.mul_(self.gain)


def initialize(model: "torch.nn.Module", initializer: Initializer, seed: int) -> None:
    """Fill every linear and convolution layer of ``model`` in place: weights by ``initializer``, biases with 0."""
    import torch

    from gradlab.seeds import generator

    draws = generator(seed, "init")
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.modules.conv._ConvNd):
                initializer.fill(layer.weight, draws)
                if layer.bias is not None:
                    layer.bias.zero_()
