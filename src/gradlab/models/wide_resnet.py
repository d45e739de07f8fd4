"""Wide residual networks: few layers, many channels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.data.spec import DataSpec
from gradlab.errors import FieldError
from gradlab.models.base import MODELS

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("wide_resnet")
@dataclass(frozen=True)
class WideResNet:
    """WRN-depth-widen (Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146), for CIFAR-sized images.

    A 3×3 convolution of 16 channels, three stages of pre-activation blocks with 16, 32 and 64 times ``widen`` channels
    (the second and third halve the image), BatchNorm, ReLU, the mean over the image and a linear layer. WRN-16-8 has
    10,961,370 parameters on CIFAR-10 and WRN-28-10 36,479,194. Unlike ``resnet`` with a ``width``, it normalises before
    each convolution, and its first convolution stays narrow. Its own initialisation: He's normal one by fan-out, biases 0.

    depth: convolutions and the linear layer, 6n + 4 with n ≥ 1 blocks to a stage: 10, 16, 22, 28, 40, …
    widen: multiplies the channels of every stage, ≥ 1.
    dropout: between the two convolutions of a block, in [0, 1).
    """

    name: str
    depth: int
    widen: int
    dropout: float

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise FieldError("depth", f"must be 6n + 4 with n at least 1, as 10, 16, 22, 28 or 40, not {self.depth}")
        check_number(self, "widen", at_least=1)
        check_number(self, "dropout", at_least=0, below=1)

    def check(self, spec: DataSpec) -> None:
        """Takes any image: convolutions at stride 2 round up, so that a single pixel stays one."""

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        from gradlab.layers import PreActivation

        width = 16
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, width, 3, padding=1, bias=False)]
        for stage, channels in enumerate((16, 32, 64)):
            blocks = []
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(PreActivation(width, channels * self.widen, stride, self.dropout))
                width = channels * self.widen
            layers.append(nn.Sequential(*blocks))
        end = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        network = nn.Sequential(*layers, *end, nn.Linear(width, len(spec.classes)))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        return network
