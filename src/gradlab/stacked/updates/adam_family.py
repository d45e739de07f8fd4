"""Adam and its relatives."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
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
    shrink,
)


class Adam(Rule):
    """torch.optim.Adam and AdamW."""

    states = ("exp_avg", "exp_avg_sq")
    reads = ("betas", "eps", "weight_decay")
    grouped = ("weight_decay", "keep", "minus_step_size")
    has_fused = True

    def __init__(self, groups: Groups) -> None:
        self.decoupled: bool = groups[0]["decoupled_weight_decay"]
        self.fused_step = bool(groups[0]["fused"])

    def numbers(self, own: Host) -> dict[str, Array]:
        decay = {"keep": 1 - own.lr * own["weight_decay"]} if self.decoupled else {"weight_decay": own["weight_decay"]}
        return decay | {
            "rest1": 1 - own["beta1"],
            "beta2": own["beta2"],
            "rest2": 1 - own["beta2"],
            "eps": own["eps"],
            "root": own.unbiased("beta2") ** 0.5,
            "minus_step_size": -own.lr / own.unbiased("beta1"),
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        mean, square = states
        if self.decoupled:
            shrink(w, numbers["keep"])
        else:
            add_decay(g, w, numbers["weight_decay"])
        mean.lerp_(g, numbers["rest1"])
        square.mul_(numbers["beta2"])
        add_product(square, g, g, numbers["rest2"])
        root = torch.sqrt(square, out=scratch).div_(numbers["root"]).add_(numbers["eps"])
        add_quotient(w, mean, root, numbers["minus_step_size"])

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            w,
            g,
            states[0],
            states[1],
            [],
            [step] * len(w),
            amsgrad=False,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


class NAdam(Rule):
    """torch.optim.NAdam. The product of its momenta is kept in float32, as in torch."""

    states = ("exp_avg", "exp_avg_sq")
    reads = ("betas", "eps", "weight_decay", "momentum_decay")
    scalars: ClassVar[Mapping[str, float]] = {"step": 0.0, "mu_product": 1.0}
    grouped = ("weight_decay", "minus_gradient_size", "minus_mean_size")

    def numbers(self, own: Host) -> dict[str, Array]:
        beta1, decay = own["beta1"][:, :1], own["momentum_decay"][:, :1]
        now = beta1 * (1.0 - 0.5 * 0.96 ** (own.step * decay))
        after = beta1 * (1.0 - 0.5 * 0.96 ** ((own.step + 1) * decay))
        kept = own.scalars["mu_product"]
        kept *= now.astype(kept.dtype)
        product = kept.astype(np.float64)
        return {
            "weight_decay": own["weight_decay"],
            "rest1": 1 - own["beta1"],
            "beta2": own["beta2"],
            "rest2": 1 - own["beta2"],
            "eps": own["eps"],
            "root": own.unbiased("beta2") ** 0.5,
            "minus_gradient_size": -(own.lr * (1.0 - now) / (1.0 - product)),
            "minus_mean_size": -(own.lr * after / (1.0 - product * after)),
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        mean, square = states
        add_decay(g, w, numbers["weight_decay"])
        mean.lerp_(g, numbers["rest1"])
        square.mul_(numbers["beta2"])
        add_product(square, g, g, numbers["rest2"])
        root = torch.sqrt(square, out=scratch).div_(numbers["root"]).add_(numbers["eps"])
        add_quotient(w, g, root, numbers["minus_gradient_size"])
        add_quotient(w, mean, root, numbers["minus_mean_size"])


class RAdam(Rule):
    """torch.optim.RAdam. Each member's steps are rectified from its own step on."""

    states = ("exp_avg", "exp_avg_sq")
    reads = ("betas", "eps", "weight_decay")
    grouped = ("weight_decay", "minus_plain", "minus_rectified")
    has_fused = True

    def numbers(self, own: Host) -> dict[str, Array]:
        step, beta2 = own.step, own["beta2"]
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / own.unbiased("beta2")
        with np.errstate(invalid="ignore", divide="ignore"):  # where it is not rectified, the root may be of anything
            root = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
        rectification = np.where(length > 5, root, 0)
        first = own.unbiased("beta1")
        return {
            "weight_decay": own["weight_decay"],
            "rest1": 1 - own["beta1"],
            "beta2": own["beta2"],
            "rest2": 1 - own["beta2"],
            "eps": own["eps"],
            "minus_plain": -(own.lr * np.where(rectification > 0, 0, 1) / first),
            "minus_rectified": -(own.unbiased("beta2") ** 0.5 * (own.lr * rectification / first)),
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        mean, square = states
        add_decay(g, w, numbers["weight_decay"])
        mean.lerp_(g, numbers["rest1"])
        square.mul_(numbers["beta2"])
        add_product(square, g, g, numbers["rest2"])
        # Before the rectification, ((√v + eps)/−0)⁻¹ is −0: a plain step.
        factor = torch.sqrt(square, out=scratch).add_(numbers["eps"]).div_(numbers["minus_rectified"])
        w.addcmul_(mean, factor.reciprocal_().add_(numbers["minus_plain"]))

    def fused(
        self,
        group: Mapping[str, Any],
        w: list[torch.Tensor],
        g: list[torch.Tensor],
        states: list[list[torch.Tensor]],
        step: torch.Tensor,
        first: bool,
    ) -> None:
        count, lr, decay, (beta1, beta2) = step.item(), group["lr"], group["weight_decay"], group["betas"]
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * count * beta2**count / (1 - beta2**count)
        if length > 5:  # Adam that is not biased, at another learning rate
            squared = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            torch._fused_adam_(
                w,
                g,
                states[0],
                states[1],
                [],
                [LONG_AFTER] * len(w),
                amsgrad=False,
                lr=(1 - beta2**count) ** 0.5 * (lr * squared**0.5 / (1 - beta1**count)),
                beta1=beta1,
                beta2=beta2,
                weight_decay=decay,
                eps=group["eps"],
                maximize=False,
            )
            return
        gradients = torch._foreach_add(g, w, alpha=decay) if decay != 0 else g
        torch._foreach_lerp_(states[0], gradients, 1 - beta1)
        torch._foreach_mul_(states[1], beta2)
        torch._foreach_addcmul_(states[1], gradients, gradients, 1 - beta2)
        torch._foreach_add_(w, states[0], alpha=-lr / (1 - beta1**count))


class Adamax(Rule):
    """torch.optim.Adamax."""

    states = ("exp_avg", "exp_inf")
    reads = ("betas", "eps", "weight_decay")
    grouped = ("weight_decay", "minus_step_size")

    def numbers(self, own: Host) -> dict[str, Array]:
        return {
            "weight_decay": own["weight_decay"],
            "rest1": 1 - own["beta1"],
            "beta2": own["beta2"],
            "eps": own["eps"],
            "minus_step_size": -own.lr / own.unbiased("beta1"),
        }

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        mean, largest = states
        add_decay(g, w, numbers["weight_decay"])
        mean.lerp_(g, numbers["rest1"])
        largest.mul_(numbers["beta2"])
        torch.maximum(largest, g.abs_().add_(numbers["eps"]), out=largest)
        add_quotient(w, mean, largest, numbers["minus_step_size"])


def direction_numbers(own: Host) -> dict[str, Array]:
    """What ``adam_direction`` takes."""
    return {
        "rest1": 1 - own["beta1"],
        "beta2": own["beta2"],
        "rest2": 1 - own["beta2"],
        "eps": own["eps"],
        "correction1": own.unbiased("beta1"),
        "correction2": own.unbiased("beta2"),
    }


def adam_direction(g: torch.Tensor, states: Sequence[torch.Tensor], numbers: Mapping[str, Number]) -> torch.Tensor:
    """``gradlab.optimizers.updates.adam.adam_directions``: m̂/(√v̂ + eps) in a new tensor; the moments move on."""
    mean, square = states
    mean.lerp_(g, numbers["rest1"])
    square.mul_(numbers["beta2"])
    add_product(square, g, g, numbers["rest2"])
    root = square.div(numbers["correction2"]).sqrt_().add_(numbers["eps"])
    return mean.div(numbers["correction1"]).div_(root)
