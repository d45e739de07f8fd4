"""The stacked updates beside as many torch optimizers of their own, with other numbers for every member."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from gradlab.optimizer_state import load_optimizer_state, optimizer_state
from gradlab.param_groups import build_optimizer
from gradlab.stacked.updates import Update, part, update_for
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
        """Those of member ``k`` that stands alone, in the next step: of a wavy loss, with noise."""
        random = torch.Generator().manual_seed(1000 * self.steps + k)
        weights = [weight.detach() for weight in self.alone[k].parameters()]
        noise = 0.3 * torch.randn(self.flat.shape[1], generator=random, dtype=torch.float64).to(self.dtype)
        whole = torch.sin(3 * torch.cat([weight.flatten() for weight in weights])) + noise
        parts = whole.split([weight.numel() for weight in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

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
                assert list(group) == list(other)
                for key, value in group.items():
                    rounded = isinstance(value, float)
                    assert value == (pytest.approx(other[key], rel=1e-12) if rounded else other[key]), key
            assert tensors.keys() == wanted.keys()
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

CASES["rmsprop"] = members_of(
    "rmsprop",
    {"lr": 0.02},
    {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "momentum": 0.5, "weight_decay": 0.1},
    {"lr": 0.01, "alpha": 0.5, "eps": 1e-2, "momentum": 0.9},
)
CASES["rmsprop without momentum"] = members_of("rmsprop", {"lr": 0.02}, {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1})
CASES["rmsprop centered"] = members_of(
    "rmsprop",
    {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "centered": True},
    {"lr": 0.01, "alpha": 0.5, "eps": 1e-2, "centered": True, "momentum": 0.5, "weight_decay": 0.1},
)
CASES["adagrad"] = members_of(
    "adagrad", {"lr": 0.1}, {"lr": 0.05, "initial_accumulator": 0.5, "eps": 1e-3, "weight_decay": 0.1}
)
CASES["adadelta"] = members_of("adadelta", {"eps": 1e-4}, {"lr": 0.7, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1})
CASES["lion"] = members_of(
    "lion", {"lr": 0.01, "weight_decay": 0.0}, {"lr": 0.002, "betas": [0.5, 0.8], "weight_decay": 0.1}
)
CASES["lamb"] = members_of(
    "lamb", {"lr": 0.02, "weight_decay": 0.0}, {"lr": 0.01, "betas": [0.5, 0.9], "eps": 1e-3, "weight_decay": 0.1}
)
CASES["muon"] = members_of(
    "muon",
    {"adamw_lr": 0.01},
    {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1, "adamw_lr": 0.02, "adamw_weight_decay": 0.3},
    {"lr": 0.005, "momentum": 0.0, "adamw_betas": [0.5, 0.8]},
)
CASES["muon without nesterov"] = members_of(
    "muon", {"nesterov": False, "ns_steps": 3}, {"nesterov": False, "ns_steps": 3, "momentum": 0.8, "lr": 0.01}
)
CASES["schedule_free_sgd"] = members_of(
    "schedule_free_sgd",
    {"lr": 0.1},
    {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.1, "r": 0.5, "weight_lr_power": 1.0},
)
CASES["schedule_free_adamw"] = members_of(
    "schedule_free_adamw", {"lr": 0.02}, {"lr": 0.01, "betas": [0.5, 0.9], "weight_decay": 0.1, "weight_lr_power": 1.0}
)

SAME = ["sgd", "momentum", "sgd and momentum", "nesterov", "adam", "adamw", "lion"]
"""What takes the kernels of torch that it takes alone, on the CPU."""

KERNELS = [*SAME, "adagrad", "radam", "rmsprop without momentum"]
"""What takes any kernel of torch there."""

FORMS = [(name, form) for name in CASES for form in ("fused", "blocks", "whole") if form != "fused" or name in KERNELS]

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
ROUNDED = {"rtol": 1e-4, "atol": 1e-5}
EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_member_gets_what_its_own_optimizer_gives(name: str, form: str) -> None:
    members = Members(CASES[name], form=form)
    members.step()
    members.check(**CLOSE)
    for _ in range(199):
        members.step()
    members.check(**CLOSE)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("muon", "muon without nesterov", "lamb")])
def test_blocks_that_end_within_a_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "CACHED_BYTES", 40 * 8)
    members = Members(CASES[name], form="blocks")
    for _ in range(10):
        members.step()
    members.check(**CLOSE)


@pytest.mark.parametrize("name", SAME)
def test_the_same_kernel_gives_the_same_bits(name: str) -> None:
    members = Members(CASES[name], dtype=torch.float32)
    for _ in range(30):
        members.step()
    members.check(**EXACT)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SAME])
def test_float32_differs_by_rounding(name: str) -> None:
    members = Members(CASES[name], dtype=torch.float32)
    for _ in range(20):
        members.step()
    members.check(**ROUNDED)


GROUPS = [
    [choice("param_groups", "no_decay")] * 3,
    [choice("param_groups", "layerwise", decay=decay, decay_vectors=decay < 0.6) for decay in (0.5, 0.5, 0.4)],
]
DECAYING = ["momentum", "adam", "adamw", "nadam", "rmsprop", "lion", "lamb", "muon", "schedule_free_adamw"]


@pytest.mark.parametrize("form", ["fused", "blocks", "whole"])
@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("groups", GROUPS, ids=["no_decay", "layerwise"])
def test_parameter_groups(groups: list[Any], name: str, form: str) -> None:
    members = Members(CASES[name], groups[: len(CASES[name])], form=form)
    for _ in range(20):
        members.step()
    members.check(**CLOSE)


@pytest.mark.parametrize("form", ["fused", "blocks", "whole"])
@pytest.mark.parametrize("name", ["momentum", "adam", "nadam", "muon", "schedule_free_sgd"])
def test_a_population_that_shrinks(name: str, form: str) -> None:
    members = Members(CASES[name][:2] * 2, form=form)
    for _ in range(5):
        members.step()
    members.keep([3, 0, 1])
    for _ in range(5):
        members.step()
    members.keep([2])
    for _ in range(5):
        members.step()
    members.check(**CLOSE)


def test_a_population_that_shrinks_before_its_first_step() -> None:
    members = Members(CASES["adam"])
    members.keep([2, 1])
    for _ in range(5):
        members.step()
    members.check(**CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_is_gone_on_from(name: str) -> None:
    """Another population takes over weights and states in the middle, as one that resumes does."""
    before, members = Members(CASES[name]), Members(CASES[name])
    for _ in range(7):
        before.step()
    before.update.synchronise()
    for k, (optimizer, lone) in enumerate(zip(before.optimizers, before.lone_optimizers, strict=True)):
        members.alone[k].load_state_dict(before.alone[k].state_dict())
        members.stacked[k].load_state_dict(before.stacked[k].state_dict())
        load_optimizer_state(members.optimizers[k], *optimizer_state(optimizer))
        load_optimizer_state(members.lone_optimizers[k], *optimizer_state(lone))
    members.update.reload()
    members.steps = before.steps
    for _ in range(7):
        members.step()
        before.step()
    members.check(**CLOSE)
    for own, uninterrupted in zip(members.flat, before.flat, strict=True):
        assert torch.equal(own, uninterrupted)


@pytest.mark.parametrize("name", ["adam", "nadam", "radam"])
def test_steps_are_counted_in_the_precision_of_a_float64_training(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        members = Members(CASES[name])
        for _ in range(5):
            members.step()
        members.check(**CLOSE)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_update_made_in_the_middle() -> None:
    """The optimizers have made steps of their own before."""
    members = Members(CASES["adamw"])
    for _ in range(3):
        members.step()
    members.update.synchronise()
    update = update_for(members.optimizers, members.flat, members.columns, "whole")
    assert update is not None
    members.update = update
    for _ in range(3):
        members.step()
    members.check(**CLOSE)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_member_that_diverges_changes_no_bit_of_the_others(name: str, form: str) -> None:
    def spoil(gradients: list[Tensors]) -> None:
        for gradient in gradients[1]:
            gradient.fill_(math.nan)

    whole, spoilt = Members(CASES[name], form=form), Members(CASES[name], form=form)
    for step in range(6):
        whole.step()
        spoilt.step(spoil if step >= 3 else None)
    assert not torch.equal(whole.flat[1], spoilt.flat[1])  # NaN; with lion, the sign of NaN is 0, and it stays
    for k in range(len(whole.flat)):
        assert k == 1 or torch.equal(whole.flat[k], spoilt.flat[k])


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_member_has_its_own_learning_rate(name: str, form: str) -> None:
    """Members that are alike but for their rates, which change from step to step, do not stay alike."""
    members = Members([CASES[name][0]] * 3, form=form)
    members.alone = [copy.deepcopy(members.alone[0]) for _ in range(3)]
    members.lone_optimizers = members.build(members.alone)
    members.flat.copy_(members.flat[:1].clone().expand_as(members.flat))
    for k, optimizers in enumerate(zip(members.optimizers, members.lone_optimizers, strict=True)):
        for group in optimizers[0].param_groups + optimizers[1].param_groups:
            group["base_lr"] *= 1 + k
    gradients = members.gradients(0)
    for _ in range(3):
        members.step(lambda own: own.__setitem__(slice(None), [gradients] * 3))
    members.check(**CLOSE)
    assert not torch.isclose(members.flat[0], members.flat[1], rtol=1e-6, atol=0).any()
    assert not torch.isclose(members.flat[1], members.flat[2], rtol=1e-6, atol=0).any()


@pytest.mark.parametrize("form", ["fused", "blocks", "whole"])
def test_gradients_that_lie_otherwise_in_memory(form: str) -> None:
    members = Members(CASES["adam"], form=form)
    step = members.update.step

    def otherwise(gradients: Sequence[torch.Tensor]) -> None:
        step([gradient.mT.contiguous().mT if gradient.dim() > 2 else gradient for gradient in gradients])

    members.update.step = otherwise  # type: ignore[method-assign]
    for _ in range(5):
        members.step()
    members.check(**CLOSE)


def test_optimizers_that_no_update_follows() -> None:
    def update(*optimizers: torch.optim.Optimizer) -> Update | None:
        return update_for(optimizers, torch.empty(len(optimizers), 0), {})

    def parameters() -> Tensors:
        return [nn.Parameter(torch.zeros(3))]

    assert update(torch.optim.Adam(parameters(), amsgrad=True)) is None
    assert update(torch.optim.SGD(parameters(), maximize=True)) is None
    assert update(torch.optim.ASGD(parameters())) is None
    assert update(torch.optim.Adam(parameters()), torch.optim.AdamW(parameters())) is None
    nesterov = torch.optim.SGD(parameters(), momentum=0.9, nesterov=True)
    assert update(nesterov, torch.optim.SGD(parameters(), momentum=0.9)) is None
    two: list[dict[str, Any]] = [{"params": parameters(), "betas": (0.5, 0.9)}, {"params": parameters()}]
    assert update(torch.optim.Adam(two)) is None


def test_parameters_that_are_elsewhere() -> None:
    members = Members(CASES["sgd"])
    with pytest.raises(ValueError, match=r"optimizers\[1\] do not lie in flat\[1\]"):
        update_for([members.optimizers[0], members.lone_optimizers[1]], members.flat[:2], members.columns)
    with pytest.raises(ValueError, match="2 optimizers and 3 rows"):
        update_for(members.optimizers[:2], members.flat, members.columns)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "radam", "muon"])
def test_a_formula_that_is_compiled(name: str) -> None:
    """As one graph with a forward and a backward pass, once for all learning rates and steps."""
    torch._dynamo.reset()
    members = Members(CASES[name], [choice("param_groups", "no_decay")] * 3, dtype=torch.float32, form="whole")
    update = members.update

    def whole_step(
        flat: torch.Tensor, wanted: Sequence[torch.Tensor], states: Tensors, numbers: Tensors
    ) -> torch.Tensor:
        def loss(leaves: Tensors) -> torch.Tensor:
            return torch.stack([(leaf * own).sum() for leaf, own in zip(leaves, wanted, strict=True)]).sum()

        value: torch.Tensor
        gradients, value = torch.func.grad_and_value(loss)([entry.view(flat, entry.start) for entry in entries])
        update.formula(flat, gradients, states, numbers)
        return value

    entries = sorted((entry for own in update.parts for entry in own.entries), key=lambda entry: entry.position)
    compiled = torch.compile(whole_step, fullgraph=True)

    def step(gradients: Sequence[torch.Tensor]) -> None:
        update.prepare()
        compiled(members.flat, gradients, update.states, update.numbers)

    update.step = step  # type: ignore[method-assign]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(20):
            members.step()
    members.check(**ROUNDED)
