"""One optimizer step of all members of a population at once."""

from collections.abc import Mapping, Sequence

import torch

from gradlab.stacked.updates.choice import Parts, parts_for
from gradlab.stacked.updates.layout import Entry
from gradlab.stacked.updates.part import Part
from gradlab.stacked.updates.rule import Array, Rule

FORMS = ("fused", "blocks", "whole")


def update_for(
    optimizers: Sequence[torch.optim.Optimizer],
    flat: torch.Tensor,
    columns: Mapping[str, tuple[int, int]],
    form: str | None = None,
) -> "Update | None":
    """The update that does what ``optimizers`` would do, or None where there is none for their kind: call their ``step``.

    Args: see ``Update``.
    """
    parts = parts_for(optimizers)
    return Update(parts, optimizers, flat, columns, form) if parts else None


class Update:
    """Moves the weights of K members as K optimizers would.

    The optimizers stay the truth: their ``param_groups`` for numbers, their ``state`` for what a checkpoint holds. The
    ``lr`` of every group is read at each step, all other numbers when the update is made and by ``reload``. The tensors
    of ``state`` are views of stacked ones from the first step on; ``synchronise`` adds the step counts.

    ``step`` is all that an ordinary training calls. A training that compiles its step calls, for each step, ``prepare``
    outside of the compiled function and ``formula`` with ``flat``, ``states`` and ``numbers`` inside of it; what ``prepare``
    writes lies in the same tensors every time, so nothing is compiled again until ``keep``.

    Args:
        parts: the rules, from ``parts_for``.
        optimizers: one for each member, of one kind, over the same groups of parameters.
        flat: the weights of all members [K, P]. Every parameter of ``optimizers[k]`` is a view of ``flat[k]``.
        columns: by the names of the parameters, their first column in ``flat`` and the one after their last.
        form: "fused" (torch's kernels, on the CPU), "blocks" (formulas over what fits the cache) or "whole" (formulas over
            all members at once); None is the fastest for the device that has one.

    Raises:
        ValueError: there are more or fewer optimizers than rows, a parameter is not where ``columns`` says, or none has it.
    """

    def __init__(
        self,
        parts: Parts,
        optimizers: Sequence[torch.optim.Optimizer],
        flat: torch.Tensor,
        columns: Mapping[str, tuple[int, int]],
        form: str | None = None,
    ) -> None:
        self.optimizers = list(optimizers)
        self.flat = flat
        self._form = form or ("whole" if flat.is_cuda else "fused")
        if len(optimizers) != len(flat):
            raise ValueError(
                f"There are {len(optimizers)} optimizers and {len(flat)} rows of flat: give one row to each."
            )
        located = [_located(optimizer, flat, k) for k, optimizer in enumerate(optimizers)]
        expected = sorted(start for start, _ in columns.values())
        for k, places in enumerate(located):
            if sorted(start for group in places for start in group) != expected:
                raise ValueError(
                    f"The parameters of optimizers[{k}] do not lie in flat[{k}] where columns says, or not all of them do: "
                    "a stacked update moves every column of flat. Point parameter.data to its view first."
                )
        self.parts = [self._part(rule, groups, located, columns) for rule, groups in parts]

    def _part(
        self, rule: Rule, groups: list[int], located: "list[Places]", columns: Mapping[str, tuple[int, int]]
    ) -> Part:
        position = {start: number for number, (start, _) in enumerate(columns.values())}
        own = sorted((start, number) for number, group in enumerate(groups) for start in located[0][group])
        entries, width = [], 0
        for start, number in own:
            parameter = located[0][groups[number]][start]
            entry = Entry(position[start], start, width, number, tuple(parameter.shape), parameter.stride())
            entries.append(entry)
            width += entry.size
        params = [[places[groups[number]][start] for start, number in own] for places in located]
        return Part(rule, groups, entries, params, self.flat, self.optimizers)

    @property
    def states(self) -> list[torch.Tensor]:
        """The stacked states of all parts, each [K, columns]: what ``formula`` changes beside the weights."""
        return [state for part in self.parts for state in part.states]

    @property
    def numbers(self) -> list[torch.Tensor]:
        """The numbers of the step that ``prepare`` began last, one tensor for each part, on the device."""
        return [part.numbers for part in self.parts if part.numbers is not None]

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Make one step.

        Args:
            gradients: stacked [K, *shape], one for each of ``columns``, in its order; they may be overwritten.
        """
        if self._form == "whole":
            self.prepare()
            self.formula(self.flat, gradients, self.states, self.numbers)
            return
        for part in self.parts:
            first = part.count_step()
            if self._form == "fused" and part.rule.has_fused:
                part.by_fused_kernels(gradients, first)
            elif part.rule.tensorwise:
                part.upload(part.make_numbers())
                part.by_members(gradients)
            else:
                part.by_blocks(gradients, part.make_numbers())

    @torch.no_grad()
    def prepare(self) -> None:
        """Begin a step that ``formula`` makes: count it, and put its numbers on the device, without waiting for it."""
        for part in self.parts:
            part.count_step()
            part.upload(part.make_numbers())

    @property
    def foreseeable(self) -> bool:
        """Whether ``foresee`` can be asked: of one member, one step prepared, and a rule that looks at nothing else."""
        return len(self.flat) == 1 and all(part.foreseeable for part in self.parts)

    def foresee(self, rates: Array) -> list[torch.Tensor]:
        """What ``prepare`` would make of the steps to come: for each part [steps, names, 1, groups].

        Args:
            rates: their learning rates, float64 [steps, groups of parameters].
        """
        return [part.foresee(rates[:, list(part.groups)]) for part in self.parts]

    @torch.no_grad()
    def begin(self, numbers: Sequence[torch.Tensor]) -> None:
        """``prepare`` with what was foreseen: for each part a row of its table."""
        for part, row in zip(self.parts, numbers, strict=True):
            part.count_step()
            assert part.numbers is not None
            part.numbers.copy_(row)

    @torch.no_grad()
    def formula(
        self,
        flat: torch.Tensor,
        gradients: Sequence[torch.Tensor],
        states: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor],
    ) -> None:
        """Make the step that ``prepare`` began, in place, by operations on tensors only: ``torch.compile`` can take it.

        Args:
            flat, states, numbers: this update's own.
            gradients: see ``step``.
        """
        given = iter(states)
        for part, own in zip(self.parts, numbers, strict=True):
            part.whole(flat, gradients, [next(given) for _ in part.states], own)

    def synchronise(self) -> None:
        """Make the state of every optimizer what as many steps of its own would have made it; before a checkpoint."""
        for part in self.parts:
            part.synchronise()

    @torch.no_grad()
    def reload(self) -> None:
        """Go on from the state and the numbers that the optimizers have now; after a checkpoint was loaded into them."""
        for part in self.parts:
            part.reload(self.optimizers)

    @torch.no_grad()
    def keep(self, members: Sequence[int], flat: torch.Tensor) -> None:
        """Go on with fewer members.

        Args:
            members: their numbers so far, in the order of their rows in ``flat``.
            flat: their weights [len(members), P], with the same columns as before.
        """
        self.optimizers = [self.optimizers[k] for k in members]
        self.flat = flat
        for part in self.parts:
            part.keep(members, flat)


Places = list[dict[int, torch.nn.Parameter]]
"""For each parameter group its parameters, by their first column."""


def _located(optimizer: torch.optim.Optimizer, flat: torch.Tensor, member: int) -> Places:
    def start(parameter: torch.nn.Parameter) -> int:
        return (parameter.data_ptr() - flat[member].data_ptr()) // flat.element_size()

    return [{start(parameter): parameter for parameter in group["params"]} for group in optimizer.param_groups]
