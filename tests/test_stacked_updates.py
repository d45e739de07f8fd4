"""The stacked updates beside as many torch optimizers of their own, with other numbers for every member."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.optimizer_state import optimizer_state
from gradlab.param_groups import build_optimizer
from gradlab.stacked.updates import update_for
from tiny import choice

Tensors = list[torch.Tensor]


class Tiny(nn.Module):
    """Four dimensions, two and one; the images it takes are not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 6)
        self.last = nn.Linear(6, 3)


class Members:
    """K networks whose parameters are views of the rows of ``flat``, beside K that stand alone, each with its optimizer.

    Gradients are of a loss that differs for every member and step, so that no two members go the same way.
    """

    def __init__(
        self,
        configs: Sequence[Any],
        groups: Sequence[Any] | None = None,
        dtype: torch.dtype = torch.float64,
        form: str | None = None,
        model: Callable[[], nn.Module] = Tiny,
    ) -> None:
        self.alone, self.dtype, self.form = [], dtype, form
        for seed, _ in enumerate(configs):
            torch.manual_seed(seed)
            self.alone.append(model().to(dtype).to(memory_format=torch.channels_last))
        self.stacked = [copy.deepcopy(network) for network in self.alone]
        named = dict(self.alone[0].named_parameters())
        ends = torch.tensor([parameter.numel() for parameter in named.values()]).cumsum(0).tolist()
        self.columns = dict(zip(named, zip([0, *ends], ends, strict=False), strict=True))
        self.flat = torch.empty(len(configs), ends[-1], dtype=dtype)
        self.point_to(self.flat)
        self.groups = groups or [choice("param_groups", "uniform")] * len(configs)
        self.configs = list(configs)
        self.lone_optimizers = self.build(self.alone)
        self.optimizers = self.build(self.stacked)
        update = update_for(self.optimizers, self.flat, self.columns, form)
        assert update is not None
        self.update = update
        self.steps = 0

    def build(self, networks: Sequence[nn.Module]) -> list[torch.optim.Optimizer]:
        made = zip(self.configs, self.groups, networks, strict=True)
        return [build_optimizer(config, groups.of(network)) for config, groups, network in made]

    def point_to(self, flat: torch.Tensor) -> None:
        """Move the stacked networks' parameters into the rows of ``flat``."""
        for row, network in zip(flat, self.stacked, strict=True):
            for (start, stop), parameter in zip(self.columns.values(), network.parameters(), strict=True):
                view = row[start:stop].as_strided(parameter.shape, parameter.stride(), row.storage_offset() + start)
                parameter.data = view.copy_(parameter.data)

    def gradients(self, k: int) -> Tensors:
        """Those of member ``k`` that stands alone, in the next step."""
        random = torch.Generator().manual_seed(1000 * self.steps + k)
        return [
            torch.sin(3 * weight.detach())
            + 0.3 * torch.randn(weight.shape, generator=random, dtype=torch.float64).to(weight)
            for weight in self.alone[k].parameters()
        ]

    def rate(self) -> float:
        """The factor of the learning rate in the next step."""
        return 0.1 + math.cos(0.05 * self.steps) ** 2

    def step(self, change: Callable[[list[Tensors]], None] | None = None) -> None:
        """One step of both; ``change`` may change the gradients."""
        gradients = [self.gradients(k) for k in range(len(self.alone))]
        if change:
            change(gradients)
        for optimizer in [*self.optimizers, *self.lone_optimizers]:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * self.rate()
        for network, optimizer, own in zip(self.alone, self.lone_optimizers, gradients, strict=True):
            for parameter, gradient in zip(network.parameters(), own, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()
        self.update.step([torch.stack(parts) for parts in zip(*gradients, strict=True)])
        self.steps += 1

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these only."""
        self.alone, self.stacked = [self.alone[k] for k in members], [self.stacked[k] for k in members]
        self.lone_optimizers = [self.lone_optimizers[k] for k in members]
        self.optimizers = [self.optimizers[k] for k in members]
        self.flat = torch.empty(len(members), self.flat.shape[1], dtype=self.dtype)
        self.point_to(self.flat)
        self.update.keep(members, self.flat)

    def weights(self, networks: Sequence[nn.Module]) -> Tensors:
        return [torch.cat([parameter.detach().flatten() for parameter in network.parameters()]) for network in networks]

    def check(self, **tolerance: Any) -> None:
        """Weights and states are those of the members that stand alone, and the state has the same form."""
        for own, alone in zip(self.weights(self.stacked), self.weights(self.alone), strict=True):
            torch.testing.assert_close(own, alone, **tolerance)
        self.update.synchronise()
        for optimizer, lone in zip(self.optimizers, self.lone_optimizers, strict=True):
            (tensors, numbers), (wanted, wanted_numbers) = optimizer_state(optimizer), optimizer_state(lone)
            assert numbers["numbers"] == wanted_numbers["numbers"]
            for group, other in zip(numbers["param_groups"], wanted_numbers["param_groups"], strict=True):
                assert group == pytest.approx(other, rel=1e-12) if "k" in group else group == other
            assert list(tensors) == list(wanted)
            for path, tensor in tensors.items():
                assert tensor.stride() == wanted[path].stride(), path
                torch.testing.assert_close(tensor, wanted[path], **tolerance, msg=path)


def members_of(name: str, *numbers: dict[str, Any]) -> list[Any]:
    return [choice("optimizer", name, **own) for own in numbers]


CASES: dict[str, list[Any]] = {
    "sgd": members_of("sgd", {"lr": 0.05, "weight_decay": 0.0}, {"lr": 0.02, "weight_decay": 0.1}, {"lr": 0.1}),
    "momentum": members_of(
        "momentum",
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.0},
        {"lr": 0.05, "momentum": 0.5, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.2, "momentum": 0.9, "dampening": 0.9},
    ),
    "sgd and momentum": [
        choice("optimizer", "sgd", lr=0.05, weight_decay=0.1),
        choice("optimizer", "momentum", lr=0.02, momentum=0.9, dampening=0.5),
        choice("optimizer", "momentum", lr=0.02, momentum=0.8),
    ],
    "nesterov": members_of(
        "nesterov",
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.0},
        {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1},
    ),
}
ADAMS = (
    {"lr": 0.02, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
    {"lr": 0.01, "betas": [0.5, 0.9], "eps": 1e-3, "weight_decay": 0.1},
    {"lr": 0.005, "betas": [0.0, 0.8], "eps": 1e-2, "weight_decay": 0.02},
)
for _name in ("adam", "adamw", "radam", "adamax"):
    CASES[_name] = members_of(_name, *ADAMS)
CASES["nadam"] = members_of(
    "nadam", ADAMS[0], ADAMS[1] | {"momentum_decay": 0.1}, ADAMS[2] | {"momentum_decay": 0.0, "betas": [0.7, 0.8]}
)

FORMS = ["fused", "blocks", "whole"]
TOLERANCE = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_every_member_gets_what_its_own_optimizer_gives(name: str, form: str) -> None:
    members = Members(CASES[name], form=form)
    for _ in range(3):
        members.step()
        members.check(**TOLERANCE[torch.float64])
    for _ in range(197):
        members.step()
    members.check(**TOLERANCE[torch.float64])
