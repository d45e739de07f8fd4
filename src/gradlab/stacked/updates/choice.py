"""Which rules a kind of optimizer follows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gradlab.stacked.updates.adam_family import Adam, Adamax, NAdam, RAdam
from gradlab.stacked.updates.gradient_descent import SGD
from gradlab.stacked.updates.rule import Groups, Rule

Parts = list[tuple[Rule, list[int]]]
"""Rules, each with the numbers of its parameter groups."""

RULES: dict[type[torch.optim.Optimizer], Callable[[Groups], Rule]] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: Adam,
    torch.optim.NAdam: lambda groups: NAdam(),
    torch.optim.RAdam: lambda groups: RAdam(),
    torch.optim.Adamax: lambda groups: Adamax(),
}

FLAGS = ("nesterov", "centered", "decoupled_weight_decay", "fused", "ns_steps")
"""Keys of a parameter group that decide what is computed, and not with which numbers."""

UNKNOWN = ("amsgrad", "maximize", "differentiable", "capturable")
"""Flags that no rule follows."""


def parts_for(optimizers: Sequence[torch.optim.Optimizer]) -> Parts | None:
    """The rules that do what these optimizers do, or None where there are none."""
    first = optimizers[0]
    if any(type(optimizer) is not type(first) or not _alike(optimizer, first) for optimizer in optimizers):
        return None
    parts = _parts(optimizers)
    if parts is None or not all(_followed(rule, optimizer, own) for rule, own in parts for optimizer in optimizers):
        return None
    return parts


def _parts(optimizers: Sequence[torch.optim.Optimizer]) -> Parts | None:
    kind, numbers = type(optimizers[0]), list(range(len(optimizers[0].param_groups)))
    if kind in RULES:
        return [(RULES[kind]([group for optimizer in optimizers for group in optimizer.param_groups]), numbers)]
    return None


def _alike(optimizer: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    """Whether both have the same groups of parameters, with the same flags."""

    def shape(group: Mapping[str, Any]) -> Any:
        return [group.get(flag) for flag in FLAGS], "momentum" in group, [p.shape for p in group["params"]]

    return [shape(group) for group in optimizer.param_groups] == [shape(group) for group in other.param_groups]


def _followed(rule: Rule, optimizer: torch.optim.Optimizer, numbers: list[int]) -> bool:
    """Whether the rule knows all flags of these groups, which differ in learning rate and weight decay only."""
    groups = [optimizer.param_groups[number] for number in numbers]
    shared = [key for key in (*rule.reads, *FLAGS) if key != "weight_decay"]
    return (
        all(group.get(key) == groups[0].get(key) for group in groups for key in shared)
        and not any(group.get(flag) for group in groups for flag in UNKNOWN)
        and not any(group.get("decoupled_weight_decay") and not isinstance(rule, Adam) for group in groups)
        and all(isinstance(group["lr"], float | int) for group in groups)
    )
