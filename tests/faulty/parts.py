"""Optimizers that cannot be built at one learning rate, or more than three times; a network that no population can be made of."""

import os
import signal
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlab.data.spec import DataSpec
from gradlab.models import MODELS
from gradlab.optimizers import OPTIMIZERS


@OPTIMIZERS.register("brittle")
@dataclass(frozen=True)
class Brittle:
    """Gradient descent that raises at a learning rate of 13, and ends its process, once, at 17.

    lr: step size.
    """

    name: str
    lr: float

    def build(self, params: Any) -> torch.optim.Optimizer:
        if self.lr == 13:
            raise ArithmeticError("13 is no learning rate")
        once = Path("died")
        if self.lr == 17 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.optim.SGD(params, lr=self.lr / 1000)


_alive: "weakref.WeakSet[torch.optim.Optimizer]" = weakref.WeakSet()


@OPTIMIZERS.register("hungry")
@dataclass(frozen=True)
class Hungry:
    """Gradient descent of which a process has memory for three, as torch says it.

    lr: step size.
    """

    name: str
    lr: float

    def build(self, params: Any) -> torch.optim.Optimizer:
        if len(_alive) == 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        made = torch.optim.SGD(params, lr=self.lr / 1000)
        _alive.add(made)
        return made


class Rows(nn.Module):
    """Reads an image row by row."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.rnn = nn.LSTM(spec.channels * spec.width, 8, batch_first=True)
        self.head = nn.Linear(8, len(spec.classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows, _ = self.rnn(images.transpose(1, 2).flatten(2))
        logits: torch.Tensor = self.head(rows[:, -1])
        return logits


@MODELS.register("rows")
@dataclass(frozen=True)
class RowsModel:
    """An LSTM over the rows of an image."""

    name: str

    def check(self, spec: DataSpec) -> None:
        """Goes with any data."""

    def build(self, spec: DataSpec) -> nn.Module:
        return Rows(spec)
