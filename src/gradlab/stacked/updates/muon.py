"""Muon's two rules: orthogonalised momentum for matrices, and the AdamW beside it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from gradlab.optimizers.updates.muon import QUINTIC
from gradlab.stacked.updates.adam_family import adam_direction, direction_numbers
from gradlab.stacked.updates.layout import Entry
from gradlab.stacked.updates.rule import Array, Host, Number, Rule, add_scaled, shrink


class MuonMatrices(Rule):
    """gradlab.optimizers.updates.muon.Muon where a group has a momentum."""

    states = ("momentum_buffer",)
    reads = ("momentum", "weight_decay")
    grouped = ("keep", "minus_lr")
    scalars: ClassVar[Mapping[str, float]] = {}
    tensorwise = True

    def __init__(self, group: Mapping[str, Any]) -> None:
        self.nesterov: bool = group["nesterov"]
        self.iterations: int = group["ns_steps"]

    def numbers(self, own: Host) -> dict[str, Array]:
        return {
            "momentum": own["momentum"],
            "rest": 1 - own["momentum"],
            "keep": 1 - own.lr * own["weight_decay"],
            "minus_lr": -own.lr,
        }

    def formula_of(self, entry: Entry) -> Callable[..., None]:
        return functools.partial(self._step, entry)

    def _step(self, entry: Entry, w: torch.Tensor, g: torch.Tensor, mean: torch.Tensor, **numbers: Number) -> None:
        mean.lerp_(g, numbers["rest"])
        update = g.lerp(mean, numbers["momentum"]) if self.nesterov else mean
        matrices = entry.view(update, 0).flatten(2)
        scale = max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
        with torch.autocast(w.device.type, enabled=False):
            orthogonal = orthogonalize(matrices, self.iterations)
        shrink(w, numbers["keep"])
        add_scaled(w, scale * entry.rows(orthogonal.reshape(-1, *entry.shape)), numbers["minus_lr"])


class AdamWBeside(Rule):
    """gradlab.optimizers.updates.muon.Muon where a group has betas."""

    states = ("exp_avg", "exp_avg_sq")
    reads = ("betas", "eps", "weight_decay")
    grouped = ("keep", "minus_lr")
    integer_step = True

    def numbers(self, own: Host) -> dict[str, Array]:
        return direction_numbers(own) | {"keep": 1 - own.lr * own["weight_decay"], "minus_lr": -own.lr}

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        direction = adam_direction(g, states, numbers)
        shrink(w, numbers["keep"])
        add_scaled(w, direction, numbers["minus_lr"])


def orthogonalize(matrices: torch.Tensor, iterations: int) -> torch.Tensor:
    """``gradlab.optimizers.updates.muon.orthogonalize`` of each of ``matrices`` [members, rows, columns]."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
