"""LeNet-5 with today's parts: max pooling and, by default, ReLU."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_option
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.models.base import ACTIVATIONS, MODELS, activation

if TYPE_CHECKING:
    from torch import nn

MIN_SIDE = 12  # 12 → pool 6 → 5×5 convolution 2 → pool 1


@MODELS.register("lenet")
@dataclass(frozen=True)
class LeNet:
    """Two 5×5 convolutions (6 and 16 channels), each pooled, then 120 and 84 units (LeCun et al., 1998).

    The first convolution pads by 2, which makes 28×28 images what LeCun's 32×32 were. 61,706 parameters on MNIST.
    https://doi.org/10.1109/5.726791

    activation: ``relu``, ``tanh`` or ``sigmoid``.
    """

    name: str
    activation: str

    def __post_init__(self) -> None:
        check_option(self, "activation", ACTIVATIONS)

    def check(self, spec: DataSpec) -> None:
        if spec.planar:
            raise ConfigError(f"model=lenet needs images, and data={spec.name} has points. Choose model=mlp.")
        if min(spec.height, spec.width) < MIN_SIDE:
            raise ConfigError(
                f"model=lenet needs images of at least {MIN_SIDE}×{MIN_SIDE} pixels, and data={spec.name} has "
                f"{spec.height}×{spec.width}. Choose model=mlp, or larger images such as data=mnist."
            )

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        height, width = ((side // 2 - 4) // 2 for side in (spec.height, spec.width))
        return nn.Sequential(
            nn.Conv2d(spec.channels, 6, 5, padding=2),
            activation(self.activation),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            activation(self.activation),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * height * width, 120),
            activation(self.activation),
            nn.Linear(120, 84),
            activation(self.activation),
            nn.Linear(84, len(spec.classes)),
        )
