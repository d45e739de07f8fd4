"""One network and all that its training changes: the optimizer, what goes around its steps, and the books. Without Lightning."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch

from gradlab.averaging import Averaging, NoAveraging
from gradlab.data.device import Batch
from gradlab.durations import Horizon
from gradlab.errors import CheckpointError
from gradlab.ledger import Ledger, evaluation
from gradlab.losses import Loss
from gradlab.optimizer_state import load_optimizer_state, optimizer_state
from gradlab.optimizers import Optimizer
from gradlab.optimizers.schedule_free import ScheduleFree
from gradlab.param_groups import ParamGroups, Uniform, build_optimizer, trainable
from gradlab.schedules import Schedule
from gradlab.schedules.plateau import Plateau, PlateauWatch
from gradlab.seeds import RandomState, TorchRandomState
from gradlab.stepping import ScheduleFreeAverage, Step, Tensors
from gradlab.tracking.journal import Journal
from gradlab.wrappers import NoWrapper, Wrapper

if TYPE_CHECKING:
    from gradlab.devices.ranks import Ranks

Measured = tuple[torch.Tensor, ...]
"""Of one step, on the device: the mini-batch's mean loss, its right answers, and the gradients' norm where there is a bound of it."""


class Learner:
    """Makes the optimizer steps of ``model``.

    Args:
        model: from images [batch, channels, height, width] to logits [batch, classes].
        loss: what training minimises.
        optimizer: built by ``begin``, over the groups of all parameters.
        schedule: multiplies the optimizer's learning rate at every step.
        horizon: length of the run.
        journal: where metric rows go.
        log_steps: steps between rows of training metrics.
        class_weights: of the loss, float [classes]; or None for all alike.
        param_groups: which parameters the optimizer treats alike.
        wrapper: around the optimizer.
        averaging: of the weights, for validation and test.
        clip_norm, clip_value: bounds of the gradients, see ``settings.Trainer``; or None.
        accumulate: parts of a mini-batch that pass through the network one after the other.
        views: what validation and test show of an image, see ``views.py``.

    ``point`` is the run's in a sweep; ``compiled`` makes its gradients and updates, where that is one function
    (``compiled.py``). Where another makes the optimizer's steps, that one or ``population.py``, ``settle`` brings the
    optimizer's state up to date and ``reload`` tells that it was loaded. ``random`` is where the training draws from,
    such as its dropout; ``ranks`` are the devices that train it together, where they are several.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule,
        horizon: Horizon,
        journal: Journal,
        log_steps: int,
        class_weights: torch.Tensor | None = None,
        param_groups: ParamGroups | None = None,
        wrapper: Wrapper | None = None,
        averaging: Averaging | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        views: str = "plain",
    ) -> None:
        self.model = model
        self.loss_config = loss
        self.class_weights = class_weights
        self.optimizer_config = optimizer
        self.schedule = schedule
        self.horizon = horizon
        self.param_groups = param_groups or Uniform("uniform")
        self.wrapper_config = wrapper or NoWrapper("none")
        self.averaging_config = averaging or NoAveraging("none")
        self.wrapper, self.averaging = Step(), Step()
        self.plateau = PlateauWatch(schedule, horizon) if isinstance(schedule, Plateau) else None
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.accumulate = accumulate
        self.views = views
        self.ledger = Ledger(journal, horizon, log_steps, self.learning_rate)
        self.optimizer: torch.optim.Optimizer
        self.compiled: Callable[[int, Batch], Measured] | None = None
        self.settle: Callable[[], None] | None = None
        self.reload: Callable[[], None] | None = None
        self.point: str | None = None
        self.ranks: Ranks | None = None
        self._network: torch.nn.Module = model
        self._unspread: torch.nn.Module | None = None
        self._to_adopt: list[Tensors | None] = []
        self.random: RandomState = TorchRandomState()
        self.test_logits = torch.empty(0)
        self.test_labels = torch.empty(0)
        self._clipped: list[torch.nn.Parameter] = []

    def begin(self) -> torch.optim.Optimizer:
        """Build the optimizer, and what goes around its steps: the network is on its device by now."""
        self.optimizer = build_optimizer(self.optimizer_config, self.param_groups.of(self.model))
        self.wrapper = self.wrapper_config.build(self.model)
        if isinstance(self.optimizer_config, ScheduleFree):
            self.averaging = ScheduleFreeAverage(self.model, self.optimizer)
        else:
            self.averaging = self.averaging_config.build(self.model, self.horizon)
        self._clipped = [parameter for _, parameter in trainable(self.model)]
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self._clipped[0].device)
        return self.optimizer

    def join_ranks(self) -> None:
        """From here on steps are those of all ranks together; weights and optimizer are as they shall begin."""
        if self.ranks is not None:
            self._network = self.ranks.wrapped(self.model)

    # -------------------------------------------------------- a network in parts, of which each rank has one (devices/sharded.py)

    @property
    def sharded(self) -> bool:
        return self.ranks is not None and self.ranks.sharded

    def spread(self, device: torch.device) -> None:
        """Keep this rank's part of the network only, on its device; of rank 0 a whole copy waits for the end, off it."""
        from gradlab.devices.sharded import spread_over_ranks

        if self.ranks is not None and self.ranks.rank == 0:
            self._unspread = copy.deepcopy(self.model)
        spread_over_ranks(self.model, device)

    def adopt_later(self, tensors: Tensors | None) -> None:
        """``adopt`` once all ranks do, as the test begins; ``tensors`` are rank 0's, and None of the others."""
        self._to_adopt = [tensors]

    def adopt_now(self) -> None:
        """What ``adopt_later`` was told."""
        if self._to_adopt:
            from gradlab.devices.sharded import adopt_of_rank_0

            adopt_of_rank_0(self.model, self._to_adopt.pop())

    def be_whole(self, tensors: Tensors) -> None:
        """Training is over: the network of rank 0 is a whole one from here on, with these weights."""
        assert self._unspread is not None
        self.model = self._network = self._unspread
        self.adopt(tensors)

    def twin(self, like: torch.Tensor) -> "Learner":
        """A learner of the same choices with a copy of the network, on the device and of the dtype of ``like``, which has begun.

        Its steps change nothing of this one's, so that they can be tried out and timed.
        """
        twin = copy.copy(self)
        twin.model = twin._network = copy.deepcopy(self.model).to(like).train()
        twin.begin()
        return twin

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0; of the group with the optimizer's own ``lr``.

        With a plateau schedule, whose drops follow validation, of a step since the last one.
        """
        return self.optimizer_config.lr * self.factor(step)

    def factor(self, step: int) -> float:
        """What multiplies every group's base learning rate at ``step``."""
        factor = self.schedule.factor(step, self.horizon)
        return factor * self.plateau.factor if self.plateau else factor

    # ------------------------------------------------------------------ training

    def step(self, step: int, batch: Batch) -> Measured:
        """Make optimizer step ``step``, counted from 0, on ``batch``; nothing in it waits for the device."""
        self.set_rates(step)
        if self.compiled is not None:
            measured = self.compiled(step, batch)
        else:
            measured = self.make_gradients(batch)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.after_step(step)
        return measured

    def make_gradients(self, batch: Batch) -> Measured:
        """Give every parameter the gradient of the batch's mean loss, within its bounds."""
        measured = self.wrapper.gradients(functools.partial(self._add_gradients, batch))
        return measured + self._clip_gradients()

    def set_rates(self, step: int) -> None:
        """Give the optimizer's groups the learning rates of ``step``."""
        factor = self.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def after_step(self, step: int) -> None:
        """What follows the update of ``step``: slow weights, averages."""
        self.wrapper.after_step(step + 1)
        self.averaging.after_step(step + 1)

    def _add_gradients(self, batch: Batch) -> Measured:
        """Add the gradients of the batch's mean loss to the parameters'; that loss, and how many answers are right."""
        if self.accumulate == 1 and self.ranks is None:
            logits = self.model(batch.images)
            loss = self.loss_config.of(logits, batch, self.class_weights)
            loss.backward()
            return loss.detach(), (logits.detach().argmax(1) == batch.labels).sum()
        whole = self.loss_config.weight(batch, self.class_weights)
        losses, correct = [], []
        for part in self._parts(batch):
            logits = self._network(part.images)
            # A mean over the part, weighted so that the parts add up to the mean over the batch.
            share = self.loss_config.weight(part, self.class_weights) / whole
            loss = share * self.loss_config.of(logits, part, self.class_weights)
            # Between devices gradients are averaged, and theirs are parts of one sum.
            (loss if self.ranks is None else self.ranks.size * loss).backward()
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(1) == part.labels).sum())
        return torch.stack(losses).sum(), torch.stack(correct).sum()

    def _parts(self, batch: Batch) -> list[Batch]:
        """What passes through this process's network, one after the other."""
        if self.ranks is None:
            return parts_of(batch, self.accumulate)
        return [self.ranks.part(part) for part in parts_of(batch, self.accumulate)]

    def _clip_gradients(self) -> Measured:
        """Bring the gradients into their bounds; their norm before, where there is a bound of it."""
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._clipped, self.clip_value, foreach=True)
        if self.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self._clipped, self.clip_norm, foreach=True)
            return (self._whole(norm).to(norm.device),)
        return ()

    # ---------------------------------------------------------------- evaluation

    @property
    def judged(self) -> torch.nn.Module:
        """The network that validation judges: the average of the weights, the slow ones, or the one in training."""
        networks = (step.network() for step in (self.averaging, self.wrapper))
        return next((network for network in networks if network is not None), self.model)

    def validated(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """``judged`` has answered all validation images: logits [images, classes], labels int64 [images]."""
        if self.ledger.validated(logits, labels) and self.plateau:
            self.plateau.see(self.ledger.steps_done, self.ledger.last_val)

    def tested(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """The same for the test images."""
        self.test_logits, self.test_labels = logits, labels
        self.ledger.test_metrics = evaluation("test", logits, labels)

    def adopt(self, tensors: Tensors) -> None:
        """Training is over: the network is this one from here on, a state of ``judged``."""
        self.model.load_state_dict(tensors)
        self.wrapper, self.averaging = Step(), Step()

    # ---------------------------------------------------------------- continuing

    def training_state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that the training has made, its books and the generators of random numbers too: tensors, and values for JSON."""
        if self.settle:
            self.settle()
        optimizer = optimizer_state(self.optimizer, self._whole)
        wrapper, averaging = self.wrapper.state(), self.averaging.state()
        parts = {"model": self.network_state(), "optimizer": optimizer[0]}
        parts |= {"wrapper": wrapper[0], "averaging": averaging[0], "random": self.random.state()}
        tensors = {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}
        numbers = {"optimizer": optimizer[1], "wrapper": wrapper[1], "averaging": averaging[1]}
        plateau = self.plateau.state() if self.plateau else None
        return tensors, {**numbers, "plateau": plateau, "ledger": self.ledger.state()}

    def network_state(self, network: torch.nn.Module | None = None) -> Tensors:
        """The state of the network in training, or of another; whole, so that all ranks of a sharded one must ask for it at once."""
        return {name: self._whole(tensor) for name, tensor in (network or self.model).state_dict().items()}

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.sharded:
            return tensor
        from gradlab.devices.sharded import whole

        return whole(tensor)

    def _load_network(self, tensors: Tensors) -> None:
        if not self.sharded:
            self.model.load_state_dict(tensors)
            return
        from gradlab.devices.sharded import load_whole

        load_whole(self.model, tensors)

    def load_training_state(self, tensors: Tensors, state: dict[str, Any]) -> None:
        """Go on from what ``training_state`` gave, once the optimizer is built.

        Raises:
            CheckpointError: it is of another network or another optimizer.
        """
        parts = _parts(tensors)
        with _fitting():
            self._load_network(parts["model"])
            load_optimizer_state(self.optimizer, parts["optimizer"], state["optimizer"])
            self.wrapper.load(parts["wrapper"], state["wrapper"])
            self.averaging.load(parts["averaging"], state["averaging"])
            if self.plateau:
                self.plateau.load(state["plateau"])
            self.ledger.load(state["ledger"])
            self.random.load(parts["random"])
            if self.reload:
                self.reload()

    def start_from(self, tensors: Tensors, state: dict[str, Any], anew: Collection[str]) -> None:
        """Start a training of its own from what another one's ``training_state`` gave: with this one's numbers, and new books.

        Args:
            tensors, state: of the other training.
            anew: what starts anew because it is another kind here: ``optimizer``, ``wrapper``, ``averaging``, ``plateau``,
                ``random``.

        Raises:
            CheckpointError: it is of another network.
        """
        parts = _parts(tensors)
        with _fitting():
            self._load_network(parts["model"])
            if "optimizer" not in anew:
                numbers = frozenset(field.name for field in dataclasses.fields(self.optimizer_config))  # type: ignore[arg-type]
                load_optimizer_state(
                    self.optimizer, parts["optimizer"], state["optimizer"], numbers | {"base_lr", "initial_lr"}
                )
            # They were copied from the network as it was initialised.
            self.wrapper = self.wrapper_config.build(self.model)
            if not isinstance(self.optimizer_config, ScheduleFree):
                self.averaging = self.averaging_config.build(self.model, self.horizon)
            if "wrapper" not in anew:
                self.wrapper.load(parts["wrapper"], state["wrapper"])
            if "averaging" not in anew:
                self.averaging.load(parts["averaging"], state["averaging"])
            if self.plateau and state["plateau"] and "plateau" not in anew:
                self.plateau.load(state["plateau"])
            if "random" not in anew:
                self.random.load(parts["random"])
            self.ledger.steps_done = self.ledger.validated_at = state["ledger"]["steps_done"]
            if self.reload:
                self.reload()


def _parts(tensors: Tensors) -> dict[str, Tensors]:
    parts: dict[str, Tensors] = {"model": {}, "optimizer": {}, "wrapper": {}, "averaging": {}, "random": {}}
    for path, tensor in tensors.items():
        part, _, name = path.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """Says of a state that is not this training's what does not fit."""
    try:
        yield
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(f"The checkpoint does not fit this training: {type(error).__name__}: {said}") from error


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """``batch`` cut into at most ``count`` parts, all but the last of one size."""
    size = -(-len(batch.labels) // count)
    pieces = [[None] * count if whole is None else whole.split(size) for whole in batch]
    return [Batch(*piece) for piece in zip(*pieces, strict=False)]
