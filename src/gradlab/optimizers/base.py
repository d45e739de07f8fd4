"""What every optimizer has, and their registry."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from gradlab.registry import Registry

if TYPE_CHECKING:
    import torch

    Params = Iterable[tuple[str, torch.nn.Parameter]] | Iterable[dict[str, Any]]


class Optimizer(Protocol):
    """What every entry of ``OPTIMIZERS`` has."""

    @property
    def name(self) -> str: ...

    @property
    def lr(self) -> float: ...

    def build(self, params: "Params") -> "torch.optim.Optimizer":
        """The torch optimizer over ``params``: pairs of name and parameter, or torch's groups, whose ``params`` are such pairs.

        torch's own optimizers take both as they are. Every parameter group has its base learning rate as its ``lr``;
        training multiplies it by the schedule's factor. Other keys of a group must be kept: ``param_groups`` uses them.
        """


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
