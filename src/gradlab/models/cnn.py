"""A small convolutional network of any depth and width, with BatchNorm and dropout."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number, check_option
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.models.base import ACTIVATIONS, MODELS, activation

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("cnn")
@dataclass(frozen=True)
class CNN:
    """Stages of two 3×3 convolutions, a 2×2 max pool after each but the last; then the mean over the image, and a linear layer.

    channels: of each stage, each ≥ 1, as ``[32, 64, 128]``.
    norm: ``batch`` for BatchNorm after every convolution, or ``none``.
    dropout: share of the features that the last layer does not see in training, in [0, 1).
    activation: ``relu``, ``tanh`` or ``sigmoid``.
    """

    name: str
    channels: list[int]
    norm: str
    dropout: float
    activation: str

    def __post_init__(self) -> None:
        if not self.channels:
            raise FieldError("channels", "must name at least one stage, as [32, 64]")
        check_number(self, "channels", at_least=1)
        check_option(self, "norm", ["batch", "none"])
        check_number(self, "dropout", at_least=0, below=1)
        check_option(self, "activation", ACTIVATIONS)

    def check(self, spec: DataSpec) -> None:
        if spec.planar:
            raise ConfigError(f"model=cnn needs images, and data={spec.name} has points. Choose model=mlp.")
        least = 2 ** (len(self.channels) - 1)
        if min(spec.height, spec.width) < least:
            raise ConfigError(
                f"model=cnn with {len(self.channels)} stages halves the image {len(self.channels) - 1} times and needs "
                f"at least {least}×{least} pixels; data={spec.name} has {spec.height}×{spec.width}. "
                "Give model.channels fewer entries."
            )

    def build(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        layers: list[nn.Module] = []
        width = spec.channels
        for stage, channels in enumerate(self.channels):
            if stage > 0:
                layers.append(nn.MaxPool2d(2))
            for channels_in in (width, channels):
                layers.append(nn.Conv2d(channels_in, channels, 3, padding=1, bias=self.norm == "none"))
                if self.norm == "batch":
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(activation(self.activation))
            width = channels
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(self.dropout), nn.Linear(width, len(spec.classes))]
        return nn.Sequential(*layers, *head)
