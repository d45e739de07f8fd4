"""The parameters of the members that one rule moves, with their stacked state."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gradlab.stacked.updates.layout import Block, Entry, Run, blocks_of, runs_of
from gradlab.stacked.updates.rule import Array, Groups, Host, Number, Rule

CACHED_BYTES = 2**18
"""Of one tensor of a step of one member: five of them, weights, gradients, two moments and their quotient, fit an L2 cache of 2 MB."""

Optimizers = Sequence[torch.optim.Optimizer]


class Part:
    """One rule over some of the parameters of K members.

    Args:
        rule: what it does.
        groups: the numbers of its parameter groups in ``param_groups``.
        entries: its parameters, in the order of their columns.
        params: for each member, its parameters in the order of ``entries``.
        flat: the weights [K, P].
        optimizers: of the members.

    Attributes:
        states: the stacked state, for each of ``rule.states`` one [K, columns of this part].
        numbers: those of the step that was prepared last, [names, K, groups], on the device; None before the first one.
    """

    def __init__(
        self,
        rule: Rule,
        groups: Sequence[int],
        entries: Sequence[Entry],
        params: list[list[torch.nn.Parameter]],
        flat: torch.Tensor,
        optimizers: Optimizers,
    ) -> None:
        self.rule = rule
        self.groups = groups
        self.entries = tuple(entries)
        self.width = sum(entry.size for entry in entries)
        self.runs = [Run((entry,)) for entry in entries] if rule.tensorwise else runs_of(entries)
        self.names: list[str] = []
        self.numbers: torch.Tensor | None = None
        self.host = Host()
        self._params = params
        self._group_of_column: torch.Tensor | None = None
        if len(groups) > 1:
            spread = [torch.full((entry.size,), entry.group) for entry in entries]
            self._group_of_column = torch.cat(spread).to(flat.device)
        self._lay_out(flat, optimizers, [torch.zeros(len(params), self.width).to(flat) for _ in rule.states])
        self.reload(optimizers)

    def _lay_out(self, flat: torch.Tensor, optimizers: Optimizers, states: list[torch.Tensor]) -> None:
        """Make the views that the steps take."""
        self.flat, self._optimizers, self.states = flat, list(optimizers), states
        members = range(flat.shape[0])
        #: by state, entry and member
        self._state_views = [[entry.members(state, entry.own_start) for entry in self.entries] for state in states]
        self._weight_views = [entry.members(flat, entry.start) for entry in self.entries]
        longest = CACHED_BYTES // flat.element_size()
        memory = flat.new_empty(2, min(longest, self.width)).unbind(0)
        runs = [] if self.rule.tensorwise else self.runs
        self._blocks = [_Strip(block, flat, states, *memory) for run in runs for block in blocks_of(run, longest)]
        #: by parameter group: positions of its entries, and by member its weights and states
        self._fused: list[tuple[list[Entry], list[list[torch.Tensor]], list[list[list[torch.Tensor]]]]] = []
        for group in range(len(self.groups)):
            own = [number for number, entry in enumerate(self.entries) if entry.group == group]
            weights = [[self._weight_views[number][k] for number in own] for k in members]
            kept = [[[views[number][k] for number in own] for views in self._state_views] for k in members]
            self._fused.append(([self.entries[number] for number in own], weights, kept))
        self._steps = torch.zeros(len(members), dtype=torch.float32)  # what the kernels take
        self._step_views = list(self._steps.unbind(0))

    # ------------------------------------------------------------------------------------------------------- the host

    def reload(self, optimizers: Optimizers) -> None:
        """Take numbers and state from the optimizers: they are new, or a checkpoint was loaded into them."""
        self._optimizers = list(optimizers)
        self._dicts = [optimizer.param_groups[group] for optimizer in optimizers for group in self.groups]
        own, shape = self.host, (len(optimizers), len(self.groups))
        own.read = _read(self._dicts, self.rule.reads, shape)
        own.group_scalars = {key: _numbers(self._dicts, key, shape) for key in self.rule.group_scalars}
        own.first = np.array([[not self._found(k)] for k in range(len(optimizers))])
        own.scalars = self._first_scalars()
        for name in own.scalars:
            found = [None if own.first[k, 0] else self._found(k)[name] for k in range(len(optimizers))]
            kept = next((value for value in found if isinstance(value, torch.Tensor)), None)
            if kept is not None:
                own.scalars[name] = own.scalars[name].astype(str(kept.dtype).removeprefix("torch."))
            for k, value in enumerate(found):
                if value is not None:
                    own.scalars[name][k] = float(value)
        self._steps.copy_(torch.from_numpy(own.scalars.get("step", np.zeros((1, 1)))[:, 0]))
        for k in range(len(optimizers)):
            if not own.first[k, 0]:
                self._adopt(k)
                self._attach(k)

    def _found(self, member: int) -> dict[str, Any]:
        """What the optimizer of a member keeps of its first parameter; empty before the first step."""
        found: dict[str, Any] = self._optimizers[member].state.get(self._params[member][0], {})
        return found

    def _first_scalars(self) -> dict[str, Any]:
        members = len(self._optimizers)
        wide = torch.get_default_dtype() == torch.float64 and not self.rule.fused_step
        dtype = np.int64 if self.rule.integer_step else np.float64 if wide else np.float32
        return {name: np.full((members, 1), value, dtype) for name, value in self.rule.scalars.items()}

    def _adopt(self, member: int) -> None:
        """Copy the state of a member's optimizer into the stacked one."""
        for number, parameter in enumerate(self._params[member]):
            state = self._optimizers[member].state[parameter]
            for name, views in zip(self.rule.states, self._state_views, strict=True):
                if name in state and state[name].data_ptr() != views[number][member].data_ptr():
                    views[number][member].copy_(state[name])

    def _attach(self, member: int) -> None:
        """Make the state of a member's optimizer views of the stacked one."""
        optimizer = self._optimizers[member]
        names = self._present(member)
        for number, parameter in enumerate(self._params[member]):
            views = zip(self.rule.states, self._state_views, strict=True)
            state = {name: own[number][member] for name, own in views if name in names}
            if state:
                optimizer.state[parameter] = {name: self._scalar(name, member) for name in self.rule.scalars} | state

    def _present(self, member: int) -> list[str]:
        group = self._optimizers[member].param_groups[self.groups[0]]
        return [name for name in self.rule.states if self.rule.present(name, group)]

    def _scalar(self, name: str, member: int) -> int | torch.Tensor:
        value = self.host.scalars[name][member, 0]
        if self.rule.integer_step:
            return int(value)
        device = self.flat.device if self.rule.fused_step else None
        return torch.tensor(value.item(), dtype=getattr(torch, value.dtype.name), device=device)

    def synchronise(self) -> None:
        """Write the step counts, and the like, into the optimizers, whose tensors are views of the stacked state."""
        own = self.host
        for k, optimizer in enumerate(self._optimizers):
            if own.scalars and not own.first[k, 0]:
                for parameter in self._params[k]:
                    for name in own.scalars:
                        optimizer.state[parameter][name] = self._scalar(name, k)
        for name, values in own.group_scalars.items():
            for group, value in zip(self._dicts, values.flat, strict=True):
                group[name] = type(group[name])(value)

    def keep(self, members: Sequence[int], flat: torch.Tensor) -> None:
        """Go on with these members, whose weights are the rows of ``flat`` now."""
        own, rows = self.host, list(members)
        own.read = {name: values[rows] for name, values in own.read.items()}
        own.scalars = {name: values[rows] for name, values in own.scalars.items()}
        own.group_scalars = {name: values[rows] for name, values in own.group_scalars.items()}
        own.first = own.first[rows]
        groups = len(self.groups)
        self._dicts = [group for k in rows for group in self._dicts[k * groups : (k + 1) * groups]]
        self._params = [self._params[k] for k in rows]
        states = [state[rows] for state in self.states]
        steps = self._steps[rows]
        self._lay_out(flat, [self._optimizers[k] for k in rows], states)
        self._steps.copy_(steps)
        self.numbers = None
        for k in range(len(rows)):
            if not own.first[k, 0]:
                self._attach(k)

    # -------------------------------------------------------------------------------------------------------- a step

    def count_step(self) -> list[bool]:
        """A step begins: steps are counted, missing states made. Which members have had none."""
        own = self.host
        first: list[bool] = own.first[:, 0].tolist()
        if any(first):
            if all(first):  # in the precision that torch would choose now
                own.scalars = self._first_scalars()
            self._begin([k for k, new in enumerate(first) if new])
        if "step" in own.scalars:
            own.scalars["step"] += 1
            self._steps.add_(1)
        return first

    def _begin(self, members: list[int]) -> None:
        for name, views in zip(self.rule.states, self._state_views, strict=True):
            for number, weights in enumerate(self._weight_views):
                for k in members:
                    views[number][k].copy_(torch.as_tensor(self.rule.initial(name, weights[k])))
        for k in members:
            self._attach(k)

    def make_numbers(self) -> dict[str, Any]:
        """The numbers of the step that was counted, each [K, groups] in float64; the members have had their first step."""
        own = self.host
        shape = own.read[next(iter(own.read))].shape
        own.lr = _numbers(self._dicts, "lr", shape)
        numbers = self.rule.numbers(own)
        own.first[:] = False
        self.names = list(numbers)
        return {name: np.broadcast_to(values, shape) for name, values in numbers.items()}

    @property
    def foreseeable(self) -> bool:
        """Whether the numbers of steps to come follow from learning rates and the steps' numbers, and a step has been prepared."""
        return set(self.host.scalars) <= {"step"} and not self.host.group_scalars and self.numbers is not None

    def foresee(self, rates: Array) -> torch.Tensor:
        """The numbers of as many steps to come as ``rates`` [steps, groups] has rows: [steps, names, 1, groups], on the device."""
        own, ahead = self.host, Host()
        ahead.lr, shape = rates, rates.shape
        ahead.read = {name: np.broadcast_to(values, shape) for name, values in own.read.items()}
        ahead.scalars = {name: count + np.arange(1, len(rates) + 1)[:, None] for name, count in own.scalars.items()}
        ahead.first = np.zeros((len(rates), 1), bool)
        numbers = self.rule.numbers(ahead)
        made = np.stack([np.broadcast_to(numbers[name], shape) for name in self.names], 1)[:, :, None]
        return self._on_device(made)

    def upload(self, numbers: dict[str, Any]) -> None:
        """Put ``numbers`` on the device, into the same memory every time, without waiting for it."""
        made = self._on_device(np.stack(list(numbers.values())))
        if self.numbers is None:
            self.numbers = torch.empty_like(made)
        self.numbers.copy_(made)

    def _on_device(self, made: Array) -> torch.Tensor:
        """``made`` in the weights' type, without waiting for the device."""
        here = torch.from_numpy(made).to(self.flat.dtype)
        return here.pin_memory().to(self.flat.device, non_blocking=True) if self.flat.is_cuda else here

    def whole(
        self,
        flat: torch.Tensor,
        gradients: Sequence[torch.Tensor],
        states: Sequence[torch.Tensor],
        numbers: torch.Tensor,
    ) -> None:
        """The step of all members as one computation on tensors, in place."""
        for run in self.runs:
            weights = flat[:, run.start : run.start + run.size]
            own = [state[:, run.own_start : run.own_start + run.size] for state in states]
            rows = [entry.rows(gradients[entry.position]) for entry in run.entries]
            if self.rule.tensorwise:
                self.rule.formula_of(run.entries[0])(weights, rows[0], *own, **self._spread(numbers, run))
            else:
                self.rule.formula(weights, torch.cat(rows, 1), *own, **self._spread(numbers, run))

    def _spread(self, numbers: torch.Tensor, run: Run) -> dict[str, torch.Tensor]:
        """Numbers that broadcast to the columns of ``run``: of each column, or of a member."""
        groups = {entry.group for entry in run.entries}
        spread: dict[str, torch.Tensor] = {}
        for name, values in zip(self.names, numbers.unbind(0), strict=True):
            if len(groups) > 1 and name in self.rule.grouped:
                assert self._group_of_column is not None
                spread[name] = values[:, self._group_of_column[run.own_start : run.own_start + run.size]]
            else:
                group = run.entries[0].group
                spread[name] = values[:, group : group + 1]
        return spread

    def by_fused_kernels(self, gradients: Sequence[torch.Tensor], first: list[bool]) -> None:
        """The step, member by member, by torch's kernels on the CPU, which take the gradients where they are."""
        self.host.first[:] = False
        groups = len(self.groups)
        for group, (entries, weights, states) in enumerate(self._fused):
            given = zip(*(entry.aligned(gradients[entry.position]).unbind(0) for entry in entries), strict=True)
            own = self._dicts[group::groups]
            for numbers, w, g, s, step, new in zip(own, weights, given, states, self._step_views, first, strict=True):
                self.rule.fused(numbers, w, list(g), s, step, new)

    def by_blocks(self, gradients: Sequence[torch.Tensor], numbers: dict[str, Any]) -> None:
        """The step by the formula, over so few columns of one member at a time that they stay in the cache."""
        rows = {entry.position: entry.rows(gradients[entry.position]) for entry in self.entries}
        values = {name: array.tolist() for name, array in numbers.items()}
        for block in self._blocks:
            block.step(self.rule, rows, values)

    def by_members(self, gradients: Sequence[torch.Tensor]) -> None:
        """The step of a rule over whole tensors, with so few members at a time that they stay in the cache."""
        assert self.numbers is not None
        for run in self.runs:
            (entry,) = run.entries
            at_once = max(1, CACHED_BYTES // self.flat.element_size() // entry.size)
            weights, gradient = self.flat[:, run.start : run.start + run.size], entry.rows(gradients[entry.position])
            states = [state[:, run.own_start : run.own_start + run.size] for state in self.states]
            numbers = self._spread(self.numbers, run)
            tensors = [weights, gradient, *states, *numbers.values()]
            formula = self.rule.formula_of(entry)
            for parts in zip(*(tensor.split(at_once) for tensor in tensors), strict=True):
                arguments, own = parts[: 2 + len(states)], parts[2 + len(states) :]
                formula(*arguments, **dict(zip(numbers, own, strict=True)))


class _Strip:
    """A block of columns with what a step of it needs, for every member."""

    def __init__(
        self,
        block: Block,
        flat: torch.Tensor,
        states: list[torch.Tensor],
        buffer: torch.Tensor,
        scratch: torch.Tensor,
    ) -> None:
        self.pieces = block.pieces
        self.groups = block.groups
        own = slice(block.own_start, block.own_start + block.size)
        self.weights = flat[:, block.start : block.start + block.size].unbind(0)
        self.states = list(zip(*(state[:, own].unbind(0) for state in states), strict=True)) or [()] * len(flat)
        self.buffer, self.scratch = buffer[: block.size], scratch[: block.size]
        self.vectors: dict[str, tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = {}

    def step(self, rule: Rule, rows: dict[int, torch.Tensor], values: dict[str, list[list[float]]]) -> None:
        """Make the step of every member, from gradients [K, columns] by their position, and numbers by member and group."""
        given = zip(*(rows[p.entry.position][:, p.start : p.stop].unbind(0) for p in self.pieces), strict=True)
        group, mixed = self.groups[0][0], len(self.groups) > 1
        for k, gradients in enumerate(given):
            torch.cat(gradients, out=self.buffer)
            numbers: dict[str, Number] = {name: by_member[k][group] for name, by_member in values.items()}
            if mixed:
                for name in rule.grouped:
                    if name in values:
                        numbers[name] = self._spread(name, values[name][k])
            rule.formula(self.weights[k], self.buffer, *self.states[k], scratch=self.scratch, **numbers)

    def _spread(self, name: str, by_group: list[float]) -> Number:
        """The number of each column, or one for all where they are the same."""
        own = [by_group[group] for group, _ in self.groups]
        if len(set(own)) == 1:
            return own[0]
        if name not in self.vectors:
            whole = torch.empty_like(self.buffer)
            self.vectors[name] = whole, whole.split([size for _, size in self.groups])
        vector, parts = self.vectors[name]
        for part, value in zip(parts, own, strict=True):
            part.fill_(value)
        return vector


def _numbers(groups: Groups, key: str, shape: tuple[int, ...]) -> Any:
    return np.fromiter((group[key] for group in groups), np.float64, len(groups)).reshape(shape)


def _read(groups: Groups, keys: Sequence[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """The numbers of ``groups`` by member and group; the two betas by names of their own."""
    read = {key: _numbers(groups, key, shape) for key in keys if key != "betas"}
    if "betas" in keys:
        betas = np.array(list(itertools.chain.from_iterable(group["betas"] for group in groups))).reshape(*shape, 2)
        read |= {"beta1": betas[..., 0], "beta2": betas[..., 1]}
    return read
