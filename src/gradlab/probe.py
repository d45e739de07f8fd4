"""A look into the layers while a network trains: how large activations and gradients are, and how many units are dead."""

import copy
import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlab.data.device import Batch
from gradlab.learner import Learner
from gradlab.lightning import pl
from gradlab.tracking.folder import write_atomically

IMAGES = 256
"""How many training images a look takes: enough for a unit that none of them wakes to be called dead."""

RECTIFIERS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)
# Never quite flat.
SMOOTH: tuple[type[nn.Module], ...] = (
    nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Softplus,
)  # fmt: skip
SQUASHERS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
}
FLAT = 0.01
"""A squashing unit is dead where it stays within this share of its range's ends for every image."""


@dataclass(frozen=True)
class LayerState:
    """One linear or convolution layer at one step, seen over the images of a look.

    step: optimizer steps made before it.
    depth: place of the layer in the order of computation, from 1.
    layer: its name in the network.
    activation_mean, activation_std: over images, units and pixels of what the layer hands on: the output of the activation
        function behind it, or its own where there is none.
    dead_share: share of its units (features or channels) whose activation function has no slope for any of the images:
        a rectifier that is never above 0, a squashing function always at the ends of its range. 0 without one.
    gradient_mean, gradient_std: of the loss of one image with respect to those activations.
    weight_std: over the layer's weights.
    weight_gradient_std: of the mean loss with respect to those.
    """

    step: int
    depth: int
    layer: str
    activation_mean: float
    activation_std: float
    dead_share: float
    gradient_mean: float
    gradient_std: float
    weight_std: float
    weight_gradient_std: float


class _Hooks:
    """Hooks on one network that note, in the order of computation, each layer and what it hands on."""

    def __init__(self, model: nn.Module) -> None:
        self.entries: list[dict[str, Any]] = []
        self._handles = []
        named: list[tuple[str, nn.Module]] = list(model.named_modules())
        for name, module in named:
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                self._handles.append(module.register_forward_hook(self._opened(name)))
            elif isinstance(module, RECTIFIERS + SMOOTH + tuple(SQUASHERS)):
                self._handles.append(module.register_forward_hook(self._activated))

    def _opened(self, name: str) -> "Callable[[nn.Module, Any, torch.Tensor], None]":
        def note(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self.entries.append({"layer": name, "weight": layer.weight})
            self._note(output)

        return note

    def _activated(self, function: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if self.entries:  # an activation before any layer belongs to none
            self._note(output)
            self.entries[-1]["dead_share"] = dead_share(function, output.detach())

    def _note(self, output: torch.Tensor) -> None:
        entry = self.entries[-1]
        # At once: an activation function that works in place would overwrite what is kept for later.
        entry["mean"], entry["std"] = _mean_and_spread(output.detach())
        entry["gradient"], entry["mark"] = None, (mark := object())

        def arrived(gradient: torch.Tensor) -> None:
            if entry["mark"] is mark:  # not where a later output has taken this one's place
                entry["gradient"] = gradient.detach()

        if output.requires_grad:
            output.register_hook(arrived)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def dead_share(function: nn.Module, output: torch.Tensor) -> float:
    """The share of units, dimension 1 of ``output`` [images, units, …], at which ``function`` is flat for all images.

    Of token sequences [images, tokens, features] the units are the features.
    """
    units = output.movedim(-1, 1) if output.dim() == 3 else output
    units = units.transpose(0, 1).flatten(1)
    ends = SQUASHERS.get(type(function))
    if isinstance(function, SMOOTH):
        return 0.0
    if ends is None:
        dead = (units <= 0).all(1)
    else:
        low, high = ends
        margin = FLAT * (high - low)
        dead = ((units < low + margin) | (units > high - margin)).all(1)
    return float(dead.double().mean())


def _mean_and_spread(values: torch.Tensor) -> tuple[float, float]:
    exact = values.double()
    return float(exact.mean()), float(exact.std(correction=0))


def look(model: nn.Module, batch: Batch, step: int) -> list[LayerState]:
    """The state of every linear and convolution layer; nothing of ``model`` or of any random stream is changed.

    The network is seen as in training: BatchNorm by the batch's own statistics, dropout at work.
    """
    seen = copy.deepcopy(model).train()
    seen.zero_grad(set_to_none=True)
    hooks = _Hooks(seen)
    devices = [batch.images.device] if batch.images.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(0)  # of dropout: the same units in every look
            # Through a leaf that asks for gradients, so that they arrive also where the first layers are frozen.
            logits = seen(batch.images.detach().clone().requires_grad_())
            loss = nn.functional.cross_entropy(logits, batch.labels)
            loss.backward()
    finally:
        hooks.close()
    images = len(batch.labels)
    states = []
    for depth, entry in enumerate(hooks.entries, start=1):
        gradient, weight = entry["gradient"], entry["weight"]
        gradient_mean, gradient_std = _mean_and_spread(gradient * images) if gradient is not None else (0.0, 0.0)
        weight_gradient = _mean_and_spread(weight.grad)[1] if weight.grad is not None else 0.0
        states.append(
            LayerState(
                step=step,
                depth=depth,
                layer=entry["layer"],
                activation_mean=entry["mean"],
                activation_std=entry["std"],
                dead_share=entry.get("dead_share", 0.0),
                gradient_mean=gradient_mean,
                gradient_std=gradient_std,
                weight_std=_mean_and_spread(weight.detach())[1],
                weight_gradient_std=weight_gradient,
            )
        )
    return states


class LayerProbe(pl.Callback):
    """Looks before the first step, every ``every`` steps and after the last; writes each state as a row of ``file``.

    Training data must come in chunks that end at multiples of ``every`` (``TrainingChunks.stop_every``).

    Args:
        learner: whose network is looked into.
        batch: the images that every look takes.
        every: optimizer steps between looks.
        file: the CSV.
        first_step: steps made before, where the training is gone on with: the rows up to there are kept.
    """

    def __init__(self, learner: Learner, batch: Batch, every: int, file: Path, first_step: int = 0) -> None:
        self.learner = learner
        self.batch = batch
        self.every = every
        self.file = file
        self.first_step = first_step
        self._looked = -1

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.batch = Batch(self.batch.images.to(module.device), self.batch.labels.to(module.device))
        kept, table = self._kept(), io.StringIO(newline="")
        rows = csv.writer(table)
        rows.writerow([field.name for field in fields(LayerState)])
        rows.writerows(asdict(state).values() for state in kept)
        write_atomically(self.file, table.getvalue())
        if kept and kept[-1].step == self.first_step:
            self._looked = self.first_step
        elif self.first_step % self.every == 0:
            self._look()

    def _kept(self) -> list[LayerState]:
        """The looks before ``first_step`` but for that of a signal, which no training that goes on has."""
        if not self.first_step or not self.file.exists():
            return []
        return [
            state for state in read_states(self.file) if state.step <= self.first_step and state.step % self.every == 0
        ]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.learner.ledger.steps_done % self.every == 0:
            self._look()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._look()

    def _look(self) -> None:
        step = self.learner.ledger.steps_done
        if step == self._looked:
            return
        self._looked = step
        with self.file.open("a", newline="") as file:
            rows = csv.writer(file)
            for state in look(self.learner.model, self.batch, step):
                rows.writerow(asdict(state).values())


def read_states(file: Path) -> list[LayerState]:
    """The rows that a ``LayerProbe`` wrote."""
    with file.open(newline="") as lines:
        return [
            LayerState(
                step=int(row.pop("step")),
                depth=int(row.pop("depth")),
                layer=str(row.pop("layer")),
                **{name: float(value) for name, value in row.items()},
            )
            for row in csv.DictReader(lines)
            if None not in row.values()  # a last line that its writer died over
        ]
