"""A user's own model, named in ``imports``, whose training goes wrong in the way that its configuration says."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.models import MODELS

if TYPE_CHECKING:
    import torch


@MODELS.register("faulty")
@dataclass(frozen=True)
class Faulty:
    """One linear layer and one fault.

    how: ``fine``, ``raise``, ``exit`` (sys.exit), ``vanish`` (ends the process), ``die_once`` (killed as by the kernel, the
        first time), ``diverge`` (logits that are no numbers) or ``slow`` (a tenth of a second to a step).
    """

    name: str
    how: str

    def check(self, spec: DataSpec) -> None:
        if self.how not in ("fine", "raise", "exit", "vanish", "die_once", "diverge", "slow"):
            raise ValueError(self.how)

    def build(self, spec: DataSpec) -> "torch.nn.Module":
        import torch

        how = self.how

        class Network(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                channels, height, width = spec.image_shape
                self.linear = torch.nn.Linear(channels * height * width, len(spec.classes))

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.linear(images.flatten(1))
                if self.training:
                    go_wrong(how)
                return logits * float("nan") if how == "diverge" and self.training else logits

        print("a faulty network is built")
        return Network()


def go_wrong(how: str) -> None:
    if how == "raise":
        raise ArithmeticError("this point raises")
    if how == "exit":
        sys.exit(3)
    if how == "vanish":
        os._exit(7)
    if how == "slow":
        time.sleep(0.1)
    died = Path("died.once")
    if how == "die_once" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
