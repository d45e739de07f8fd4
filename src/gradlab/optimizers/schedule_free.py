"""Optimizers that need no schedule: the gradient is taken between a fast sequence and its average, which is the result."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradlab.bounds import check_length, check_number
from gradlab.errors import ConfigError
from gradlab.optimizers.base import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from gradlab.optimizers.base import Params


@dataclass(frozen=True)
class ScheduleFree:
    """What both have (Defazio et al., 2024, https://arxiv.org/abs/2405.15682); the library is ``schedulefree``.

    z ← z − lr·step(y); x ← (1 − c)x + c·z; the gradient is taken at y = (1 − β)z + βx. The network in training is y;
    validation, test and the best network use x. BatchNorm's statistics are those of y, near x.
    A warm-up is the schedule's: ``schedule=constant schedule.warmup=5%``. It is what the library's ``warmup_steps`` does.

    lr: step size, > 0; larger than with a schedule.
    weight_decay: decay at y, ≥ 0.
    r: power of the step in the weight of the average, ≥ 0; 0 is the paper's.
    weight_lr_power: power of the highest learning rate so far in that weight, ≥ 0: a warm-up's steps count less.
    """

    name: str
    lr: float
    weight_decay: float
    r: float
    weight_lr_power: float

    def __post_init__(self) -> None:
        check_number(self, "lr", above=0)
        for field in ("weight_decay", "r", "weight_lr_power"):
            check_number(self, field, at_least=0)

    def check(self, schedule: str, wrapper: str, averaging: str) -> None:
        """Raise ``ConfigError`` where the library is missing, or another choice, by its name, undoes what this does."""
        if importlib.util.find_spec("schedulefree") is None:
            raise ConfigError(
                f"optimizer={self.name} needs the package schedulefree, which is not installed: "
                "pip install 'gradlab[schedulefree]'."
            )
        if schedule != "constant":
            raise ConfigError(
                f"optimizer={self.name} replaces the schedule, and schedule={schedule} would lower its learning rate as "
                "well. Choose schedule=constant, with a schedule.warmup if you like."
            )
        if averaging != "none":
            raise ConfigError(
                f"optimizer={self.name} averages the weights itself, so averaging={averaging} would average an average. "
                "Choose averaging=none."
            )
        if wrapper == "lookahead":
            raise ConfigError(
                f"optimizer={self.name} keeps its average in the weights that wrapper=lookahead would overwrite. Choose "
                "wrapper=none."
            )

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers that both have, as arguments of the library's classes."""
        return {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "r": self.r,
            "weight_lr_power": self.weight_lr_power,
            "foreach": True,
        }


@OPTIMIZERS.register("schedule_free_sgd")
@dataclass(frozen=True)
class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free gradient descent: step(y) = g + weight_decay·y.

    lr, weight_decay, r, weight_lr_power: see ScheduleFree.
    momentum: β, how far y is towards the average, in (0, 1).
    """

    momentum: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "momentum", above=0, below=1)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import schedulefree

        return _in_training(schedulefree.SGDScheduleFree(list(params), **self.numbers, momentum=self.momentum))


@OPTIMIZERS.register("schedule_free_adamw")
@dataclass(frozen=True)
class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-free AdamW: step(y) = g/(√v̂ + eps) + weight_decay·y, with v the second moment.

    lr, weight_decay, r, weight_lr_power: see ScheduleFree.
    betas: β, how far y is towards the average, in (0, 1), and the decay of the second moment, in [0, 1).
    eps: added to the root of the second moment, > 0.
    """

    betas: list[float]
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "betas", 2)
        check_number(self, "betas", at_least=0, below=1)
        if self.betas[0] == 0:
            check_number(self, "betas", above=0)
        check_number(self, "eps", above=0)

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        import schedulefree

        betas = (self.betas[0], self.betas[1])
        return _in_training(schedulefree.AdamWScheduleFree(list(params), **self.numbers, betas=betas, eps=self.eps))


def _in_training(optimizer: "Any") -> "torch.optim.Optimizer":
    """The library's optimizer in its training mode, where it stays: ``stepping.ScheduleFreeAverage`` reads x beside it."""
    optimizer.train()
    return optimizer  # type: ignore[no-any-return]
