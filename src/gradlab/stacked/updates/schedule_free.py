"""The optimizers of the library schedulefree, in their training mode."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch

from gradlab.stacked.updates.rule import Array, Host, Number, Rule, add_decay, add_product, add_scaled


class ScheduleFree(Rule):
    """What both have: a fast sequence z beside the weights y, and the share of z in the average."""

    scalars: ClassVar[Mapping[str, float]] = {}
    group_scalars: ClassVar[tuple[str, ...]] = ("k", "lr_max", "weight_sum", "scheduled_lr")
    grouped = ("weight_decay", "share", "y_size", "minus_lr")

    def averaging(self, own: Host, beta: Array) -> dict[str, Array]:
        """The numbers that both have; the step is counted."""
        kept = own.group_scalars
        kept["lr_max"] = np.maximum(own.lr, kept["lr_max"])
        weight = (kept["k"] + 1) ** own["r"] * kept["lr_max"] ** own["weight_lr_power"]
        kept["weight_sum"] = kept["weight_sum"] + weight
        share = np.divide(weight, kept["weight_sum"], out=np.zeros_like(weight), where=kept["weight_sum"] != 0)
        kept["scheduled_lr"] = own.lr.copy()
        kept["k"] = kept["k"] + 1
        return {
            "weight_decay": own["weight_decay"],
            "share": share,
            "y_size": own.lr * (beta * (1 - share) - 1),
            "minus_lr": -own.lr,
        }

    def initial(self, name: str, weights: torch.Tensor) -> torch.Tensor | float:
        return weights if name == "z" else 0.0


class ScheduleFreeSGD(ScheduleFree):
    """schedulefree.SGDScheduleFree without its own warm-up."""

    states = ("z",)
    reads = ("momentum", "r", "weight_lr_power", "weight_decay")

    def numbers(self, own: Host) -> dict[str, Array]:
        return self.averaging(own, own["momentum"])

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        (fast,) = states
        add_decay(g, w, numbers["weight_decay"])
        _move(w, fast, g, numbers)


class ScheduleFreeAdamW(ScheduleFree):
    """schedulefree.AdamWScheduleFree without its own warm-up."""

    states = ("z", "exp_avg_sq")
    reads = ("betas", "eps", "r", "weight_lr_power", "weight_decay")

    def numbers(self, own: Host) -> dict[str, Array]:
        correction = 1 - own["beta2"] ** (own.group_scalars["k"] + 1)
        moments = {"beta2": own["beta2"], "rest2": 1 - own["beta2"], "correction2": correction, "eps": own["eps"]}
        return moments | self.averaging(own, own["beta1"])

    def formula(
        self,
        w: torch.Tensor,
        g: torch.Tensor,
        *states: torch.Tensor,
        scratch: torch.Tensor | None = None,
        **numbers: Number,
    ) -> None:
        fast, square = states
        square.mul_(numbers["beta2"])
        add_product(square, g, g, numbers["rest2"])
        g.div_(torch.div(square, numbers["correction2"], out=scratch).sqrt_().add_(numbers["eps"]))
        add_decay(g, w, numbers["weight_decay"])
        _move(w, fast, g, numbers)


def _move(w: torch.Tensor, fast: torch.Tensor, g: torch.Tensor, numbers: dict[str, Number]) -> None:
    w.lerp_(fast, numbers["share"])
    add_scaled(w, g, numbers["y_size"])
    add_scaled(fast, g, numbers["minus_lr"])
