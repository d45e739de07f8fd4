"""Muon: momentum whose matrices are orthogonalised, with an AdamW for everything that is no hidden matrix."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradlab.bounds import check_length, check_number
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params


@OPTIMIZERS.register("muon")
@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) on hidden matrices, AdamW on the rest.

    Muon: m ← momentum·m + (1 − momentum)·g; w ← w − lr·weight_decay·w − lr·√max(1, rows/columns)·NS(u), where NS brings
    all singular values of u (m, or Nesterov's momentum·m + (1 − momentum)·g) near 1 by Newton-Schulz iterations. A
    convolution's weight is taken as [channels out, channels in × kernel area]. torch.optim.Muon takes no convolutions
    and iterates in bfloat16; here it is the weights' own precision.

    Parameters are told apart by name and shape: Muon takes those called ``…weight`` with two dimensions or more, but
    the last of them (the final layer) and those with ``embed`` in their name. All others are AdamW's, so logistic
    regression is trained by AdamW alone.

    lr: step size of Muon, > 0; a step changes a matrix by about lr in the spectral norm.
    momentum: decay of m, in [0, 1).
    nesterov: whether the gradient is mixed in once more.
    ns_steps: Newton-Schulz iterations, 1 to 20.
    weight_decay: decoupled decay of Muon's matrices, ≥ 0.
    adamw_lr: step size of AdamW, > 0; the schedule multiplies it too.
    adamw_betas: decay of AdamW's first and second moment, each in [0, 1).
    adamw_eps: added to the root of AdamW's second moment, > 0.
    adamw_weight_decay: decoupled decay of AdamW's parameters, ≥ 0.
    """

    name: str
    lr: float
    momentum: float
    nesterov: bool
    ns_steps: int
    weight_decay: float
    adamw_lr: float
    adamw_betas: list[float]
    adamw_eps: float
    adamw_weight_decay: float

    climb_margin: ClassVar[float] = 3.0
    """See ``finder.curve.MARGIN``. Its steps have one length whatever the gradient, so that a ramp climbs late (experiments/04-find-lr)."""

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        check_number(self, "momentum", at_least=0, below=1)
        check_number(self, "ns_steps", at_least=1, at_most=20)
        check_number(self, "weight_decay", at_least=0)
        check_number(self, "adamw_lr", above=0)
        check_length(self, "adamw_betas", 2)
        check_number(self, "adamw_betas", at_least=0, below=1)
        check_number(self, "adamw_eps", above=0)
        check_number(self, "adamw_weight_decay", at_least=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        from gradlab.optimizers.updates.muon import Muon

        given: list[Any] = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        groups = [{**group, "params": list(group["params"])} for group in groups]
        hidden = hidden_matrices([pair for group in groups for pair in group["params"]])
        muon = {
            "lr": self.lr,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "ns_steps": self.ns_steps,
            "weight_decay": self.weight_decay,
        }
        adamw = {
            "lr": self.adamw_lr,
            "betas": (self.adamw_betas[0], self.adamw_betas[1]),
            "eps": self.adamw_eps,
            "weight_decay": self.adamw_weight_decay,
        }
        parts = [
            {**group, **numbers, "params": [pair for pair in group["params"] if (pair[0] in hidden) is matrices]}
            for group in groups
            for matrices, numbers in ((True, muon), (False, adamw))
        ]
        return Muon([part for part in parts if part["params"]])


def hidden_matrices(named: "list[tuple[str, torch.nn.Parameter]]") -> set[str]:
    """The names of the parameters that Muon takes; ``named`` is in the order of the layers, the final one last."""
    matrices = [name for name, parameter in named if parameter.dim() >= 2 and name.endswith("weight")]
    return {name for name in matrices[:-1] if "embed" not in name}
