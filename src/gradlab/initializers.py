"""Initialisers: how linear and convolution layers start. Biases start at 0 (but see ``default``); norm layers keep their own.

A layer that its model has marked (``layers.keep``) is left alone: a whitening layer, pretrained weights. All draws come from one CPU generator of the run's seed, in the order of the layers, so that a seed gives the same
network on every device. n_in and n_out below are a layer's fan-in and fan-out: for a convolution, channels × kernel area.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gradlab.bounds import check_number, check_option
from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch

    Layer = torch.nn.Linear | torch.nn.modules.conv._ConvNd


class Initializer(Protocol):
    """What every entry of ``INITIALIZERS`` has."""

    @property
    def name(self) -> str: ...

    def start(self, layer: "Layer", generator: "torch.Generator") -> None:
        """Set one linear or convolution layer's weight and bias in place."""


@runtime_checkable
class DataDependent(Protocol):
    """An initialiser that looks at ``images`` training images after it has started every layer."""

    @property
    def images(self) -> int: ...

    def calibrate(self, model: "torch.nn.Module", images: "torch.Tensor") -> None:
        """Change the weights of ``model`` in place; ``images`` are floats [n, channels, height, width], normalised."""


INITIALIZERS: Registry[Initializer] = Registry("init")


class Weights:
    """What most initialisers are: a rule for the weight, and a bias of 0."""

    def start(self, layer: "Layer", generator: "torch.Generator") -> None:
        self.fill(layer.weight, generator)
        if layer.bias is not None:
            layer.bias.zero_()

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        """Fill one weight, [n_out, n_in] or [channels out, channels in, height, width], in place."""
        raise NotImplementedError


@INITIALIZERS.register("zeros")
@dataclass(frozen=True)
class Zeros(Weights):
    """All weights 0. Right for logistic regression; in a deeper network every unit of a layer stays the same."""

    name: str

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        weight.zero_()


@INITIALIZERS.register("constant")
@dataclass(frozen=True)
class Constant(Weights):
    """All weights one number. As with zeros, the units of a layer stay the same; for showing that they do.

    value: the number, finite.
    """

    name: str
    value: float

    def __post_init__(self) -> None:
        check_number(self, "value")

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        weight.fill_(self.value)


@INITIALIZERS.register("uniform")
@dataclass(frozen=True)
class Uniform(Weights):
    """Uniform in ±bound for all layers, whatever their width; the standard deviation is bound/√3.

    bound: the largest absolute value, > 0.
    """

    name: str
    bound: float

    def __post_init__(self) -> None:
        check_number(self, "bound", above=0)

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        weight.uniform_(-self.bound, self.bound, generator=generator)


@INITIALIZERS.register("normal")
@dataclass(frozen=True)
class Normal(Weights):
    """Gaussian with one standard deviation for all layers, whatever their width.

    std: standard deviation, > 0.
    """

    name: str
    std: float

    def __post_init__(self) -> None:
        check_number(self, "std", above=0)

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        weight.normal_(0.0, self.std, generator=generator)


@INITIALIZERS.register("truncated_normal")
@dataclass(frozen=True)
class TruncatedNormal(Weights):
    """Gaussian without its tails, with one standard deviation for all layers, whatever their width.

    std: standard deviation of the Gaussian before it is cut, > 0; cut at 2 of them, 0.88 of it is left.
    cutoff: largest absolute value, in standard deviations, > 0.
    """

    name: str
    std: float
    cutoff: float

    def __post_init__(self) -> None:
        check_number(self, "std", above=0)
        check_number(self, "cutoff", above=0)

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        from torch.nn import init

        bound = self.cutoff * self.std
        init.trunc_normal_(weight, 0.0, self.std, -bound, bound, generator=generator)


@INITIALIZERS.register("xavier")
@dataclass(frozen=True)
class Xavier(Weights):
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
class He(Weights):
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


@INITIALIZERS.register("lecun")
@dataclass(frozen=True)
class LeCun(Weights):
    """Variance gain²/n_in (LeCun et al., 1998, section 4.6), for tanh layers and for SELU.

    https://doi.org/10.1007/3-540-49430-8_2

    gain: multiplies the standard deviation, > 0.
    distribution: ``normal`` or ``uniform``.
    """

    name: str
    gain: float
    distribution: str

    def __post_init__(self) -> None:
        check_number(self, "gain", above=0)
        check_option(self, "distribution", ["normal", "uniform"])

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        from torch.nn import init

        fill = init.kaiming_normal_ if self.distribution == "normal" else init.kaiming_uniform_
        fill(weight, mode="fan_in", nonlinearity="linear", generator=generator)
        weight.mul_(self.gain)


@INITIALIZERS.register("orthogonal")
@dataclass(frozen=True)
class Orthogonal(Weights):
    """Orthonormal rows or columns, whichever are fewer, times gain (Saxe et al., 2014, https://arxiv.org/abs/1312.6120).

    A convolution is taken as the matrix [channels out, channels in × kernel area].

    gain: all singular values of every weight, > 0; √2 suits ReLU.
    """

    name: str
    gain: float

    def __post_init__(self) -> None:
        check_number(self, "gain", above=0)

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        from torch.nn import init

        init.orthogonal_(weight, gain=self.gain, generator=generator)


@INITIALIZERS.register("lsuv")
@dataclass(frozen=True)
class LSUV(Weights):
    """Layer-sequential unit variance (Mishkin and Matas, 2016, https://arxiv.org/abs/1511.06422): made to fit the data.

    Orthonormal weights first; then layer by layer, in the order of computation, the weights are divided by the standard
    deviation of the layer's output over some training images, until its variance is 1.

    images: how many training images that is, ≥ 2.
    tolerance: how far from 1 the variance may end, > 0.
    max_iterations: divisions of one layer at most, ≥ 1.
    """

    name: str
    images: int
    tolerance: float
    max_iterations: int

    def __post_init__(self) -> None:
        check_number(self, "images", at_least=2)
        check_number(self, "tolerance", above=0)
        check_number(self, "max_iterations", at_least=1)

    def fill(self, weight: "torch.Tensor", generator: "torch.Generator") -> None:
        from torch.nn import init

        init.orthogonal_(weight, generator=generator)

    def calibrate(self, model: "torch.nn.Module", images: "torch.Tensor") -> None:
        """Divide the weights of ``model`` in place.

        The network is seen in evaluation mode: dropout passes everything, BatchNorm does nothing yet.
        """
        import torch

        training = model.training
        model.eval()
        with torch.no_grad():
            for layer in _in_order_of_computation(model, images[:2]):
                for _ in range(self.max_iterations):
                    variance = _output_variance(model, layer, images)
                    # A layer that nothing reaches has no scale to bring to 1.
                    if not 0 < variance < float("inf") or abs(variance - 1) < self.tolerance:
                        break
                    layer.weight.div_(variance**0.5)
        model.train(training)


def _in_order_of_computation(model: "torch.nn.Module", images: "torch.Tensor") -> "list[Layer]":
    """The linear and convolution layers that an initialiser may set, as a forward pass meets them."""
    order: list[Layer] = []
    handles = [
        layer.register_forward_hook(lambda layer, *_: order.append(layer) if layer not in order else None)
        for layer in _layers(model)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return order


def _output_variance(model: "torch.nn.Module", layer: "Layer", images: "torch.Tensor") -> float:
    """Variance of what ``layer`` computes from ``images``; the layers behind it are not computed."""

    class Computed(Exception):  # noqa: N818 - no error: it ends the forward pass where nothing more is needed
        pass

    found: list[float] = []

    def note(layer: "torch.nn.Module", inputs: object, output: "torch.Tensor") -> None:
        found.append(float(output.double().var(correction=0)))
        raise Computed

    handle = layer.register_forward_hook(note)
    try:
        model(images)
    except Computed:
        pass
    finally:
        handle.remove()
    return found[0]


@INITIALIZERS.register("default")
@dataclass(frozen=True)
class Default:
    """The model's own start, drawn from the run's seed when it is built (``models.base.build_network``).

    That is what its authors gave it (vit, speed, 2c2d, torchvision's, …); a model without one has torch's: weights and
    biases uniform in ±1/√n_in.
    """

    name: str

    def start(self, layer: "Layer", generator: "torch.Generator") -> None:
        """Nothing is left to do."""


def initialize(model: "torch.nn.Module", initializer: Initializer, seed: int) -> None:
    """Set every linear and convolution layer of ``model`` but the kept ones in place, in their order, by ``initializer``."""
    import torch

    from gradlab.seeds import generator

    draws = generator(seed, "init")
    with torch.no_grad():
        for layer in _layers(model):
            initializer.start(layer, draws)


def _layers(model: "torch.nn.Module") -> "list[Layer]":
    """The linear and convolution layers that an initialiser may set, in their order."""
    import torch

    from gradlab.layers import is_kept

    kinds = torch.nn.Linear | torch.nn.modules.conv._ConvNd
    return [layer for layer in model.modules() if isinstance(layer, kinds) and not is_kept(layer)]
