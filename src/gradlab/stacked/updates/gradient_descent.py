"""Gradient descent with and without momentum."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from gradlab.stacked.updates.rule import Array, Groups, Host, Number, Rule, add_decay, add_scaled


class SGD(Rule):
    """torch.optim.SGD. Where the momentum is 0 there is no velocity, whatever the dampening."""

    reads = ("momentum", "dampening", "weight_decay")
    scalars: ClassVar[Mapping[str, float]] = {}
    has_fused = True

    def __init__(self, groups: Groups) -> None:
        self.nesterov: bool = groups[0]["nesterov"]
        if any(group["momentum"] != 0 for group in groups):
            self.states = ("momentum_buffer",)

    def numbers(self, own: Host) -> dict[str, Array]:
        numbers = {"weight_decay": own["weight_decay"], "minus_lr": -own.lr}
        if self.states:
            # torch takes the first gradient whole where there is no velocity yet.
            whole = (own["momentum"] == 0) | own.first
            numbers |= {"momentum": own["momentum"], "share": np.where(whole, 1, 1 - own["dampening"])}
        return numbers

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        add_decay(g, w, numbers["weight_decay"])
        if states:
            (velocity,) = states
            velocity.mul_(numbers["momentum"])
            add_scaled(velocity, g, numbers["share"])
            if self.nesterov:
                add_scaled(g, velocity, numbers["momentum"])
            else:
                g = velocity
        add_scaled(w, g, numbers["minus_lr"])

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        momentum = group["momentum"]
        torch._fused_sgd_(
            w,
            g,
            states[0] if momentum else [],
            weight_decay=group["weight_decay"],
            momentum=momentum,
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=first and momentum != 0,
        )

    def present(self, name: str, group: Mapping[str, Any]) -> bool:
        return bool(group["momentum"] != 0)
