"""Adam and its relatives: a running mean of gradients over the root of one of their squares."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradlab.bounds import check_length, check_number
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params


@dataclass(frozen=True)
class AdamLike:
    """The numbers that all of the family have.

    lr: step size, > 0; one step moves a parameter by about lr.
    betas: decay of the first and of the second moment, each in [0, 1).
    eps: added to the root of the second moment, > 0.
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0; it goes through the moments.
    """

    name: str
    lr: float
    betas: list[float]
    eps: float
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_length(self, "betas", 2)
        check_number(self, "betas", at_least=0, below=1)
        check_number(self, "eps", above=0)
        check_number(self, "weight_decay", at_least=0)

    @property
    def numbers(self) -> dict[str, Any]:
        """Those numbers, as the arguments of a torch optimizer."""
        return {
            "lr": self.lr,
            "betas": (self.betas[0], self.betas[1]),
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }


@OPTIMIZERS.register("adam")
@dataclass(frozen=True)
class Adam(AdamLike):
    """Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980), with its bias correction.

    lr, betas, eps: see AdamLike.
    weight_decay: coefficient of the L2 penalty's gradient, ≥ 0; it goes through the moments (adamw's does not).
    """

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.Adam(params, **self.numbers, fused=True)


@OPTIMIZERS.register("adamw")
@dataclass(frozen=True)
class AdamW(AdamLike):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101).

    As in torch, the decay of a step is lr·weight_decay·w: it follows the schedule.

    lr, betas, eps: see AdamLike.
    weight_decay: decoupled decay, ≥ 0.
    """

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.AdamW(params, **self.numbers, fused=True)


@OPTIMIZERS.register("nadam")
@dataclass(frozen=True)
class NAdam(AdamLike):
    """Adam with Nesterov's momentum (Dozat, 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ).

    The momentum of step t is betas[0]·(1 − 0.96^(t·momentum_decay)/2): it rises to betas[0].

    lr, betas, eps, weight_decay: see AdamLike.
    momentum_decay: how fast the momentum rises, ≥ 0.
    """

    momentum_decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.NAdam(params, **self.numbers, momentum_decay=self.momentum_decay, foreach=True)


@OPTIMIZERS.register("radam")
@dataclass(frozen=True)
class RAdam(AdamLike):
    """Rectified Adam (Liu et al., 2020, https://arxiv.org/abs/1908.03265): a warm-up that follows from betas[1].

    The first steps are those of momentum, w ← w − lr·m̂; once the second moment's variance is finite (after 5 steps at
    betas[1] = 0.999), Adam's, times a rectification that rises from near 0 to 1.

    lr: step size, > 0.
    betas, eps, weight_decay: see AdamLike.
    """

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.RAdam(params, **self.numbers, foreach=True)


@OPTIMIZERS.register("adamax")
@dataclass(frozen=True)
class Adamax(AdamLike):
    """Adam in the infinity norm (Kingma and Ba, 2015, section 7.1, https://arxiv.org/abs/1412.6980).

    m ← β₁m + (1 − β₁)g; u ← max(β₂u, |g| + eps); w ← w − lr/(1 − β₁^t)·m/u.

    lr: step size, > 0; no step moves a parameter by much more.
    betas: β₁ and β₂, decay of the mean and of the maximum, each in [0, 1).
    eps: added to |g|, > 0.
    weight_decay: see AdamLike.
    """

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import torch

        return torch.optim.Adamax(params, **self.numbers, foreach=True)
