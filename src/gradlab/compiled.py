"""The optimizer step of a run as one compiled function: forward pass, loss, gradients, their bounds, and the update.

A small network's step is hundreds of operations that take a microsecond of arithmetic and several of Python each. torch's
compiler makes one function of all of them. What changes from step to step (images, learning rate, bias corrections) enters
as tensors, so nothing is ever compiled twice, and runs that differ in numbers only share what was compiled.

The parameters stay the network's own, and the optimizer's state stays its own: both become views of one row each
(``stacked.storage``, ``stacked.updates``), which the compiled function changes in place. So checkpoints, averages, looks
into the layers and evaluation know nothing of it. A mini-batch of another size, as the last of an epoch may be, makes an
eager step on the same tensors.

On a GPU what takes the time of a small network's step is the launching of its kernels, and a CUDA graph launches them all at
once (``captured``): of the compiled function, or of the eager operations, which takes no compiler and no seconds.
"""

import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad_and_value

from gradlab.captured import Captured
from gradlab.cuda import operations
from gradlab.data.device import Batch
from gradlab.learner import Learner, Measured, parts_of
from gradlab.stacked.clipping import clip
from gradlab.stacked.storage import Layout, Storage
from gradlab.stacked.updates import Update, update_for
from gradlab.stacked.updates.choice import parts_for
from gradlab.stepping import SharpnessAware

Tensors = dict[str, torch.Tensor]
Step = Callable[..., Measured]

FORESEEN = 256
"""Steps whose learning rates and bias corrections are made at once: a few operations of numpy cost as much as a small layer."""
KEPT = 8
"""Compiled functions that a process keeps, those used last: a sweep over widths would fill the memory with them."""

BACKEND = "inductor"

FUNCTIONS_OF_TENSORS = ("gradlab", "torch", "torchvision", "timm")
"""Packages whose networks and losses compute from tensors alone. What a user's own Python does besides, a compiled step would
do once, when it is compiled; ``compilable = True`` in its class says that it does nothing."""

_functions: "OrderedDict[Hashable, Step]" = OrderedDict()


class Uncompilable(Exception):  # noqa: N818 - no mistake of the user's: such a training takes eager steps
    """A training whose step cannot be compiled. The message is a few words: what stands in the way."""


class CompiledStep:
    """Makes the steps of ``learner``, whose optimizer is built and whose state is loaded.

    Args:
        learner: its parameters and its optimizer's state are moved into storage of this step.
        key: equal for two learners exactly when their networks, losses and batches differ in numbers of tensors only;
            they share what is compiled.
        batch_size: images of a mini-batch that the compiled function takes.
        compiles: or else the step is captured as it is, on a GPU.

    Raises:
        Uncompilable: the learner does something that has no compiled form; it is left as it was.
    """

    def __init__(self, learner: Learner, key: Hashable, batch_size: int, compiles: bool = True) -> None:
        check_compilable(learner)
        self.learner = learner
        self.batch_size = batch_size
        network = learner.model
        storage = Storage([network])
        update = update_for([learner.optimizer], storage.flat, storage.columns)
        assert update is not None
        self.update = update
        learner.settle, learner.reload = update.synchronise, self._reload
        self._flat = storage.flat
        self._trained = [network.get_parameter(name) for name in storage.columns]
        buffers = {name: network.get_buffer(name) for name in storage.buffers}
        self._fixed: Tensors = {name: network.get_parameter(name).detach() for name in storage.frozen} | buffers
        self._bounds = [
            None if bound is None else torch.tensor([bound], dtype=torch.float64).to(self._flat)
            for bound in (learner.clip_value, learner.clip_norm)
        ]
        self._rates: list[list[float]] = []
        self._foreseen: list[tuple[torch.Tensor, ...]] = []
        self._since = 0
        self._ours = operations.ours(self._flat.device)
        self._function = self._compiled_function(key, storage) if compiles else None
        self._captured = Captured(lambda given: self._call(Batch(*given))) if self._flat.is_cuda else None  # type: ignore[arg-type]

    def _compiled_function(self, key: Hashable, storage: Storage) -> Step:
        learner = self.learner
        rules = [
            (type(part.rule).__name__, repr(sorted(vars(part.rule).items())), part.entries)
            for part in self.update.parts
        ]
        whole = (key, repr(rules), self.batch_size, learner.accumulate, torch.get_num_threads(), self._flat.device)
        if whole not in _functions:
            _functions[whole] = _compiled(_step_of(learner, storage, self.update, self._ours))
            while len(_functions) > KEPT:
                _functions.popitem(last=False)
        _functions.move_to_end(whole)
        return _functions[whole]

    def __call__(self, step: int, batch: Batch) -> Measured:
        """Make optimizer step ``step`` on ``batch``, with the learning rates that the optimizer's groups have now."""
        if len(batch.labels) != self.batch_size:
            return self._eager(batch)
        self._prepare(step)
        if self._function is not None:
            # As it was compiled for: an augmentation may hand its images on in another order of dimensions.
            batch = batch._replace(images=batch.images.contiguous(), labels=batch.labels.contiguous())
        return self._call(batch) if self._captured is None else self._captured(batch)

    def _call(self, batch: Batch) -> Measured:
        if self._function is None:
            return self._by_formula(batch)
        return self._function(
            self._flat,
            self.update.states,
            self.update.numbers,
            self._fixed,
            batch,
            self.learner.class_weights,
            *self._bounds,
        )

    def _prepare(self, step: int) -> None:
        """Count the step and have its numbers where the compiled function reads them: foreseen for many steps at once."""
        if not self.update.foreseeable:
            self.update.prepare()
            return
        groups = self.learner.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        if self._since >= len(self._foreseen) or self._rates[self._since] != rates:
            ahead = range(step, min(step + FORESEEN, self.learner.horizon.total_steps))
            factors = [self.learner.factor(each) for each in ahead]
            self._rates = [[group["base_lr"] * factor for group in groups] for factor in factors]
            tables = self.update.foresee(np.array(self._rates, np.float64).reshape(-1, len(groups)))
            self._foreseen = list(zip(*(table.unbind(0) for table in tables), strict=True))
            self._since = 0
        self.update.begin(self._foreseen[self._since])
        self._since += 1

    def _reload(self) -> None:
        self._foreseen = []
        self.update.reload()

    def _by_formula(self, batch: Batch) -> Measured:
        """The eager step that ``_prepare`` began."""
        with self._ours:
            measured = self.learner.make_gradients(batch)
        self.update.formula(self._flat, self._taken_gradients(), self.update.states, self.update.numbers)
        return measured

    def _eager(self, batch: Batch) -> Measured:
        self._since += 1
        measured = self.learner.make_gradients(batch)
        self.update.step(self._taken_gradients())
        return measured

    def _taken_gradients(self) -> list[torch.Tensor]:
        gradients = [given(parameter.grad)[None] for parameter in self._trained]
        for parameter in self._trained:
            parameter.grad = None
        return gradients


def check_compilable(learner: Learner) -> None:
    """Raise ``Uncompilable`` where it is known, before anything is tried, that the learner's step has no compiled form."""
    if stranger := not_of_tensors_alone(learner):
        raise Uncompilable(stranger)
    if isinstance(learner.wrapper, SharpnessAware):
        raise Uncompilable("wrapper=sam makes two passes")
    if parts_for([learner.optimizer]) is None:
        raise Uncompilable(f"there is no formula of the optimizer {type(learner.optimizer).__name__}")


def not_of_tensors_alone(learner: Learner) -> str | None:
    """What of the learner's network or loss may do more in a step than compute from tensors, in a few words."""
    for part in (*learner.model.modules(), learner.loss_config):
        kind = type(part)
        if kind.__module__.partition(".")[0] not in FUNCTIONS_OF_TENSORS and not getattr(part, "compilable", False):
            return f"{kind.__name__} may do more than compute from tensors ('compilable = True' in its class says no)"
    return None


def refusal(taker: str, error: Exception) -> str:
    """What to say where ``taker``, such as torch.compile, has failed: it can in any way at all."""
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{taker} does not take this network ({type(error).__name__}: {line})"


def given(gradient: torch.Tensor | None) -> torch.Tensor:
    """``gradient``, which is there."""
    if gradient is None:
        raise Uncompilable("a parameter of the network gets no gradient")
    return gradient


def _step_of(learner: Learner, storage: Storage, update: Update, ours: AbstractContextManager[object]) -> Step:
    """The step as a function of tensors; everything else in it is a constant of the compilation. The network runs in ``ours``."""
    model, loss_of, accumulate = learner.model, learner.loss_config.of, learner.accumulate
    weight_of = learner.loss_config.weight
    places = {name: (Layout.of(model.get_parameter(name)), *columns) for name, columns in storage.columns.items()}

    def loss_and_answers(trained: Tensors, fixed: Tensors, part: Batch, class_weights: Any, share: Any) -> Any:
        with ours:
            logits = functional_call(model, {**trained, **fixed}, (part.images,))
        loss = loss_of(logits, part, class_weights)
        # The gradients of the loss alone: what enters for the books has none.
        return loss if share is None else share * loss, (logits.detach().argmax(1) == part.labels).sum()

    differentiate = grad_and_value(loss_and_answers, has_aux=True)

    def gradients_of(flat: torch.Tensor, fixed: Tensors, batch: Batch, class_weights: Any) -> Any:
        trained = {name: layout.view(flat[0, a:b]) for name, (layout, a, b) in places.items()}
        if accumulate == 1:
            gradients, (loss, correct) = differentiate(trained, fixed, batch, class_weights, None)
            return list(gradients.values()), loss, correct
        whole = weight_of(batch, class_weights)
        summed, losses, answers = [torch.zeros_like(own) for own in trained.values()], [], []
        for part in parts_of(batch, accumulate):
            share = weight_of(part, class_weights) / whole
            gradients, (loss, correct) = differentiate(trained, fixed, part, class_weights, share)
            summed = [before + own for before, own in zip(summed, gradients.values(), strict=True)]
            losses.append(loss)
            answers.append(correct)
        return summed, torch.stack(losses).sum(), torch.stack(answers).sum()

    def step(
        flat: torch.Tensor,
        states: list[torch.Tensor],
        numbers: list[torch.Tensor],
        fixed: Tensors,
        batch: Batch,
        class_weights: torch.Tensor | None,
        value_bound: torch.Tensor | None,
        norm_bound: torch.Tensor | None,
    ) -> Measured:
        gradients, loss, correct = gradients_of(flat, fixed, batch, class_weights)
        stacked = [gradient[None] for gradient in gradients]
        norm = clip(stacked, value_bound, norm_bound)
        update.formula(flat, stacked, states, numbers)
        return loss, correct, *(each[0] for each in norm)

    return step


def traced_and_compiled(
    step: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """``step`` of ``tensors`` as one compiled function: the operations that it does with copies of them, gradients included.

    Other tensors that it looks at are constants of what is compiled.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(step)(*(tensor.clone() for tensor in tensors))
    compiled: Callable[..., torch.Tensor] = torch.compile(
        traced, backend=BACKEND, fullgraph=True, dynamic=False, options=_options()
    )
    return compiled


def _options() -> dict[str, Any]:
    # Called with tensors of one kind only, which a key stands for: nothing need be checked in each step.
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    if BACKEND == "inductor":
        from gradlab.cpu.rewriting import Rewriting

        options["post_grad_custom_pre_pass"] = Rewriting()
    return options


def _compiled(step: Step) -> Step:
    # The compiler remembers by a function's code, and every step has the same; with code of its own it finds its own.
    own: Any = step
    code = own.__code__.replace(co_name=f"step_{len(_functions)}")
    alone = types.FunctionType(code, own.__globals__, code.co_name, own.__defaults__, own.__closure__)
    options = _options()
    if BACKEND == "inductor":
        options["fallback_random"] = True  # dropout draws from the run's generator, whose state a checkpoint keeps
    compiled: Step = torch.compile(alone, backend=BACKEND, fullgraph=True, dynamic=False, options=options)
    return compiled
