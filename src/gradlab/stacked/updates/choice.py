"""Which rules a kind of optimizer follows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gradlab.optimizers.updates.lamb import LAMB
from gradlab.optimizers.updates.lion import Lion
from gradlab.optimizers.updates.muon import Muon
from gradlab.stacked.updates import adam_family, adaptive, gradient_descent, muon, schedule_free, sign_and_trust
from gradlab.stacked.updates.rule import Groups, Rule

Parts = list[tuple[Rule, list[int]]]
"""Rules, each with the numbers of its parameter groups."""

RULES: dict[type[torch.optim.Optimizer], Callable[[Groups], Rule]] = {
    torch.optim.SGD: gradient_descent.SGD,
    torch.optim.Adam: adam_family.Adam,
    torch.optim.AdamW: adam_family.Adam,
    torch.optim.NAdam: lambda groups: adam_family.NAdam(),
    torch.optim.RAdam: lambda groups: adam_family.RAdam(),
    torch.optim.Adamax: lambda groups: adam_family.Adamax(),
    torch.optim.RMSprop: adaptive.RMSprop,
    torch.optim.Adagrad: adaptive.Adagrad,
    torch.optim.Adadelta: lambda groups: adaptive.Adadelta(),
    Lion: lambda groups: sign_and_trust.Lion(),
    LAMB: lambda groups: sign_and_trust.LAMB(),
}

SCHEDULE_FREE: dict[str, Callable[[], Rule]] = {
    "SGDScheduleFree": schedule_free.ScheduleFreeSGD,
    "AdamWScheduleFree": schedule_free.ScheduleFreeAdamW,
}
"""By their names: the library may be missing."""

FLAGS = ("nesterov", "centered", "decoupled_weight_decay", "fused", "ns_steps")
"""Keys of a parameter group that decide what is computed, and not with which numbers."""

UNKNOWN = ("amsgrad", "maximize", "differentiable", "capturable", "warmup_steps")
"""Keys of a parameter group that no rule follows unless they are off."""


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
    first = optimizers[0]
    kind, numbers = type(first), list(range(len(first.param_groups)))
    if kind is Muon:
        matrices = [number for number in numbers if "momentum" in first.param_groups[number]]
        others = [number for number in numbers if number not in matrices]
        rules = [(muon.MuonMatrices(first.param_groups[matrices[0]]), matrices)] if matrices else []
        return [*rules, *([(muon.AdamWBeside(), others)] if others else [])]
    if kind in RULES:
        return [(RULES[kind]([group for optimizer in optimizers for group in optimizer.param_groups]), numbers)]
    if kind.__name__ in SCHEDULE_FREE and kind.__module__.partition(".")[0] == "schedulefree":
        return [(SCHEDULE_FREE[kind.__name__](), numbers)]
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
        and not any(group.get("decoupled_weight_decay") and not isinstance(rule, adam_family.Adam) for group in groups)
        and all(isinstance(group["lr"], float | int) for group in groups)
    )
