"""Gradient descent, plain and with momentum."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params


@OPTIMIZERS.register("sgd")
@dataclass(frozen=True)
class SGD:
    """Gradient descent, w ← w − lr·(g + weight_decay·w); over mini-batches, or over all with data.batch_size=full.

    lr: step size, > 0.
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0.
    """

    name: str
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.SGD(params, lr=self.lr, weight_decay=self.weight_decay, fused=True)


@OPTIMIZERS.register("momentum")
@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum (Polyak, 1964): v ← momentum·v + (1 − dampening)·g, from v = 0; w ← w − lr·v.

    With dampening=0 this is torch's usual form, whose steps are up to 1/(1 − momentum) times those of sgd at the same lr.
    With dampening=momentum, v is the exponentially weighted mean of the gradients, and lr compares with that of sgd.

    lr: step size, > 0.
    momentum: decay of the velocity v, in (0, 1).
    dampening: what a gradient loses on its way into v, in [0, 1). It holds from the first step on; torch.optim.SGD
        alone would take the first gradient whole.
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0.
    """

    name: str
    lr: float
    momentum: float
    dampening: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "momentum", above=0, below=1)
        check_number(self, "dampening", at_least=0, below=1)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        optimizer = torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
            fused=True,
        )
        if self.dampening > 0:
            # torch fills a missing velocity with the undamped gradient; one that is there, it damps.
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


@OPTIMIZERS.register("nesterov")
@dataclass(frozen=True)
class Nesterov:
    """Nesterov's momentum in the form of Sutskever et al. (2013): v ← momentum·v + g; w ← w − lr·(g + momentum·v).

    https://proceedings.mlr.press/v28/sutskever13.html

    lr: step size, > 0.
    momentum: decay of the velocity v, in (0, 1).
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0.
    """

    name: str
    lr: float
    momentum: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "momentum", above=0, below=1)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.SGD(
            params, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=True, fused=True
        )
