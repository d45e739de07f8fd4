"""Steps over the root of squared gradients, without Adam's first moment: AdaGrad, RMSprop and ADADELTA."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params


@OPTIMIZERS.register("adagrad")
@dataclass(frozen=True)
class Adagrad:
    """AdaGrad (Duchi et al., 2011, https://jmlr.org/papers/v12/duchi11a.html): s ← s + g²; w ← w − lr·g/(√s + eps).

    lr: step size, > 0; steps shrink with the root of their number even if it stays.
    initial_accumulator: s at the start, ≥ 0; above 0 it damps the first steps.
    eps: added to the root, > 0.
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0.
    """

    name: str
    lr: float
    initial_accumulator: float
    eps: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "initial_accumulator", at_least=0)
        check_number(self, "eps", above=0)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.Adagrad(
            params,
            lr=self.lr,
            initial_accumulator_value=self.initial_accumulator,
            eps=self.eps,
            weight_decay=self.weight_decay,
            foreach=True,
        )


@OPTIMIZERS.register("rmsprop")
@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton, 2012, lecture 6e): s ← alpha·s + (1 − alpha)·g²; w ← w − lr·v, v ← momentum·v + g/(√s + eps).

    https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf

    lr: step size, > 0.
    alpha: decay of the mean of squares s, in [0, 1).
    eps: added to the root, > 0.
    momentum: decay of the velocity v, in [0, 1); 0 is Hinton's.
    centered: divide by the root of s − (mean of g)², an estimate of the variance (Graves, 2013,
        https://arxiv.org/abs/1308.0850).
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0.
    """

    name: str
    lr: float
    alpha: float
    eps: float
    momentum: float
    centered: bool
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "alpha", at_least=0, below=1)
        check_number(self, "eps", above=0)
        check_number(self, "momentum", at_least=0, below=1)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.RMSprop(
            params,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            centered=self.centered,
            weight_decay=self.weight_decay,
            foreach=True,
        )


@OPTIMIZERS.register("adadelta")
@dataclass(frozen=True)
class Adadelta:
    """ADADELTA (Zeiler, 2012, https://arxiv.org/abs/1212.5701): its steps have the unit of the parameters themselves.

    s ← rho·s + (1 − rho)·g²; Δ = √(u + eps)/√(s + eps)·g; u ← rho·u + (1 − rho)·Δ²; w ← w − lr·Δ.

    lr: multiplies the step, > 0, dimensionless; Zeiler's method has none, which is 1.
    rho: decay of both means of squares, in [0, 1).
    eps: in both roots, > 0; the first steps are about √eps long, so it decides how training starts.
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0.
    """

    name: str
    lr: float
    rho: float
    eps: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "rho", at_least=0, below=1)
        check_number(self, "eps", above=0)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.Adadelta(
            params, lr=self.lr, rho=self.rho, eps=self.eps, weight_decay=self.weight_decay, foreach=True
        )
