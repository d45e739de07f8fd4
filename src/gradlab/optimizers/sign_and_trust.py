"""Steps whose length does not follow the gradient's: Lion's are signs, LAMB's as long as the weights allow."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_length, check_number
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params


@OPTIMIZERS.register("lion")
@dataclass(frozen=True)
class Lion:
    """Lion (Chen et al., 2023, https://arxiv.org/abs/2302.06675): the sign of a mean of momentum and gradient.

    w ← w − lr·(sign(β₁m + (1 − β₁)g) + weight_decay·w); then m ← β₂m + (1 − β₂)g.

    lr: step size, > 0; every parameter moves by exactly lr, so take a third to a tenth of adamw's.
    betas: β₁ and β₂, each in [0, 1).
    weight_decay: decoupled decay, ≥ 0; take three to ten times adamw's.
    """

    name: str
    lr: float
    betas: list[float]
    weight_decay: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_length(self, "betas", 2)
        check_number(self, "betas", at_least=0, below=1)
        check_number(self, "weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        from gradlab.optimizers.updates.lion import Lion

        return Lion(params, lr=self.lr, betas=(self.betas[0], self.betas[1]), weight_decay=self.weight_decay)


@OPTIMIZERS.register("lamb")
@dataclass(frozen=True)
class LAMB:
    """LAMB (You et al., 2020, https://arxiv.org/abs/1904.00962): Adam's direction, as long as the layer's weights.

    u = m̂/(√v̂ + eps) + weight_decay·w; w ← w − lr·‖w‖/‖u‖·u. Every tensor is a layer, biases and norm layers too, as in
    the paper's algorithm 2; the ratio is not clipped, and is 1 where a norm is 0.

    lr: length of a step as a share of the layer's weights, > 0.
    betas: decay of the first and of the second moment, each in [0, 1).
    eps: added to the root of the second moment, > 0.
    weight_decay: decay inside u, ≥ 0.
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

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        from gradlab.optimizers.updates.lamb import LAMB

        return LAMB(
            params,
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
