"""The two convolutional networks of the optimizer benchmark DeepOBS."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError
from gradlab.models.base import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("2c2d")
@dataclass(frozen=True)
class TwoConvolutionsTwoDense:
    """DeepOBS' 2c2d (Schneider et al., 2019, https://arxiv.org/abs/1903.05499): 3,274,634 parameters on MNIST.

    Two 5×5 convolutions (32 and 64 channels) that keep the image's size, each with a ReLU and a 2×2 max pool, then 1,024
    units and the classes. Its own initialisation: weights from a Gaussian of standard deviation 0.05 cut at two of them,
    biases 0.05.
    """

    name: str

    def check(self, spec: DataSpec) -> None:
        """Takes any image: pools round up, so that a single pixel stays one."""

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        from gradlab.layers import SamePool

        height, width = (math.ceil(side / 4) for side in (spec.height, spec.width))
        network = nn.Sequential(
            nn.Conv2d(spec.channels, 32, 5, padding=2),
            nn.ReLU(),
            SamePool(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            SamePool(2),
            nn.Flatten(),
            nn.Linear(64 * height * width, 1024),
            nn.ReLU(),
            nn.Linear(1024, len(spec.classes)),
        )
        for parameter in network.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=0.05, a=-0.1, b=0.1)
            else:
                nn.init.constant_(parameter, 0.05)
        return network


MIN_SIDE = 9  # 9 → 5×5 convolution 5 → pool 3 → 3×3 convolution 1


@MODELS.register("3c3d")
@dataclass(frozen=True)
class ThreeConvolutionsThreeDense:
    """DeepOBS' 3c3d (Schneider et al., 2019, https://arxiv.org/abs/1903.05499): 895,210 parameters on CIFAR-10.

    Convolutions 5×5, 3×3 and 3×3 (64, 96 and 128 channels; the first two without padding), each with a ReLU and a 3×3
    max pool at stride 2, then 512 and 256 units and the classes. Its own initialisation: Xavier's, normal in the
    convolutions and uniform in the linear layers, biases 0.
    """

    name: str

    def check(self, spec: DataSpec) -> None:
        if min(spec.height, spec.width) < MIN_SIDE:
            raise ConfigError(
                f"model=3c3d needs images of at least {MIN_SIDE}×{MIN_SIDE} pixels, and data={spec.name} has "
                f"{spec.height}×{spec.width}. Choose model=2c2d, which takes any, or larger images such as data=mnist."
            )

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        from gradlab.layers import SamePool

        height, width = (math.ceil((math.ceil((side - 4) / 2) - 2) / 4) for side in (spec.height, spec.width))
        network = nn.Sequential(
            nn.Conv2d(spec.channels, 64, 5),
            nn.ReLU(),
            SamePool(3),
            nn.Conv2d(64, 96, 3),
            nn.ReLU(),
            SamePool(3),
            nn.Conv2d(96, 128, 3, padding=1),
            nn.ReLU(),
            SamePool(3),
            nn.Flatten(),
            nn.Linear(128 * height * width, 512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, len(spec.classes)),
        )
        for parameter in network.parameters():
            if parameter.dim() == 4:
                nn.init.xavier_normal_(parameter)
            elif parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        return network
