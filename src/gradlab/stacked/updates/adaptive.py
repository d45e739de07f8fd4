"""RMSprop, AdaGrad and ADADELTA."""

from collections.abc import Mapping
from typing import Any

import torch

from gradlab.stacked.updates.rule import (
    LONG_AFTER,
    Array,
    Groups,
    Host,
    Number,
    Rule,
    add_decay,
    add_product,
    add_quotient,
    add_scaled,
)


class RMSprop(Rule):
    """torch.optim.RMSprop. A momentum of 0 takes the same way as others, with a velocity that forgets all."""

    reads = ("alpha", "eps", "momentum", "weight_decay")

    def __init__(self, groups: Groups) -> None:
        self.centered: bool = groups[0]["centered"]
        self.moving = any(group["momentum"] > 0 for group in groups)
        momentum, mean = ("momentum_buffer",) * self.moving, ("grad_avg",) * self.centered
        self.states = ("square_avg", *momentum, *mean)
        self.has_fused = not self.moving and not self.centered

    def numbers(self, own: Host) -> dict[str, Array]:
        return {
            "weight_decay": own["weight_decay"],
            "alpha": own["alpha"],
            "rest": 1 - own["alpha"],
            "eps": own["eps"],
            "momentum": own["momentum"],
            "minus_lr": -own.lr,
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        kept = dict(zip(self.states, states, strict=True))
        square = kept["square_avg"]
        add_decay(g, w, numbers["weight_decay"])
        square.mul_(numbers["alpha"])
        add_product(square, g, g, numbers["rest"])
        if self.centered:
            mean = kept["grad_avg"].lerp_(g, numbers["rest"])
            root = torch.addcmul(square, mean, mean, value=-1, out=scratch).sqrt_()
        else:
            root = torch.sqrt(square, out=scratch)
        root.add_(numbers["eps"])
        if self.moving:
            velocity = kept["momentum_buffer"].mul_(numbers["momentum"]).addcdiv_(g, root)
            add_scaled(w, velocity, numbers["minus_lr"])
        else:
            add_quotient(w, g, root, numbers["minus_lr"])

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        # Adam whose mean is the gradient itself, so long after its start that nothing is biased.
        torch._fused_adam_(
            w,
            g,
            g,
            states[0],
            [],
            [LONG_AFTER] * len(w),
            amsgrad=False,
            lr=group["lr"],
            beta1=0.0,
            beta2=group["alpha"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def present(self, name: str, group: Mapping[str, Any]) -> bool:
        return name != "momentum_buffer" or bool(group["momentum"] > 0)


class Adagrad(Rule):
    """torch.optim.Adagrad, whose state is there before the first step."""

    states = ("sum",)
    reads = ("eps", "lr_decay", "weight_decay")
    has_fused = True

    def __init__(self, groups: Groups) -> None:
        self.fused_step = bool(groups[0]["fused"])

    def numbers(self, own: Host) -> dict[str, Array]:
        return {
            "weight_decay": own["weight_decay"],
            "eps": own["eps"],
            "minus_lr": -own.lr / (1 + (own.step - 1) * own["lr_decay"]),
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        (total,) = states
        add_decay(g, w, numbers["weight_decay"])
        total.addcmul_(g, g)
        w.addcdiv_(g.mul_(numbers["minus_lr"]), torch.sqrt(total, out=scratch).add_(numbers["eps"]))

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        torch._fused_adagrad_(
            w,
            g,
            states[0],
            [step] * len(w),
            lr=group["lr"],
            lr_decay=group["lr_decay"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


class Adadelta(Rule):
    """torch.optim.Adadelta."""

    states = ("square_avg", "acc_delta")
    reads = ("rho", "eps", "weight_decay")

    def numbers(self, own: Host) -> dict[str, Array]:
        return {
            "weight_decay": own["weight_decay"],
            "rho": own["rho"],
            "rest": 1 - own["rho"],
            "eps": own["eps"],
            "minus_lr": -own.lr,
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        square, moved = states
        add_decay(g, w, numbers["weight_decay"])
        square.mul_(numbers["rho"])
        add_product(square, g, g, numbers["rest"])
        root = torch.add(square, numbers["eps"], out=scratch).sqrt_()
        delta = moved.add(numbers["eps"]).sqrt_().div_(root).mul_(g)
        moved.mul_(numbers["rho"])
        add_product(moved, delta, delta, numbers["rest"])
        add_scaled(w, delta, numbers["minus_lr"])
