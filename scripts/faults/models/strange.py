"""A user's own model whose training goes wrong where its configuration says."""

import atexit
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.models import MODELS

if TYPE_CHECKING:
    import torch


@MODELS.register("strange")
@dataclass(frozen=True)
class Strange:
    """One linear layer, whose logits at training step ``at`` (counted from 1) are ``value``: nan, inf or -inf.

    How many steps were made is written into ``steps.txt``.
    """

    name: str
    at: int
    value: str

    def check(self, spec: DataSpec) -> None:
        float(self.value)

    def build(self, spec: DataSpec) -> "torch.nn.Module":
        import torch

        at, value = self.at, float(self.value)

        class Network(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                channels, height, width = spec.image_shape
                self.linear = torch.nn.Linear(channels * height * width, len(spec.classes))
                self.steps = 0

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.linear(images.flatten(1))
                if not self.training:
                    return logits
                self.steps += 1
                return logits + value if self.steps == at else logits

        network = Network()
        atexit.register(lambda: Path("steps.txt").write_text(str(network.steps)))
        return network
