"""What every optimizer has, and their registry."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch


class Optimizer(Protocol):
    """What every entry of ``OPTIMIZERS`` has."""

    @property
    def name(self) -> str: ...

    @property
    def lr(self) -> float: ...

    def build(self, params: "Iterable[tuple[str, torch.nn.Parameter]]") -> "torch.optim.Optimizer":
        """The torch optimizer over ``params``, a model's ``named_parameters()``, which torch's own take as they are.

        Every parameter group has its base learning rate as its ``lr``; training multiplies it by the schedule's factor.
        """


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
