"""Residual networks for small images: no early pooling, so that a 32×32 image keeps its detail."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.bounds import check_number
from gradlab.data.spec import DataSpec
from gradlab.errors import ConfigError, FieldError
from gradlab.models.base import MODELS

if TYPE_CHECKING:
    from torch import nn

MIN_SIDE = 8  # of depth 9, whose three max pools leave one pixel; convolutions at stride 2 round up
THREE_STAGES = (20, 32, 44, 56, 110)


@MODELS.register("resnet")
@dataclass(frozen=True)
class ResNet:
    """ResNet (He et al., 2016, https://arxiv.org/abs/1512.03385) in its forms for CIFAR-sized images.

    Depth 9 is David Page's network for fast training (2018): two residual stages, max pooling, logits times 1/8.
    Depth 18 has four stages of 64 to 512 channels behind a 3×3 stem: 11,173,962 parameters on CIFAR-10.
    Depths 20, 32, 44, 56 and 110 are the paper's for CIFAR: three stages of 16 to 64 channels, 6n + 2 layers. Where a
    stage changes the shape, the shortcut is a 1×1 convolution (the paper's option B): 272,474 parameters at depth 20.

    depth: 9, 18, 20, 32, 44, 56 or 110.
    width: multiplies the channels of every stage, ≥ 1.
    """

    name: str
    depth: int
    width: int

    def __post_init__(self) -> None:
        depths = (9, 18, *THREE_STAGES)
        if self.depth not in depths:
            raise FieldError("depth", f"must be one of {', '.join(map(str, depths))}, not {self.depth}")
        check_number(self, "width", at_least=1)

    def check(self, spec: DataSpec) -> None:
        if spec.planar:
            raise ConfigError(f"model=resnet needs images, and data={spec.name} has points. Choose model=mlp.")
        if self.depth == 9 and min(spec.height, spec.width) < MIN_SIDE:
            raise ConfigError(
                f"model=resnet with model.depth=9 halves the image three times and needs at least {MIN_SIDE}×{MIN_SIDE} "
                f"pixels; data={spec.name} has {spec.height}×{spec.width}. Choose another depth, or model=mlp."
            )

    def build(self, spec: DataSpec) -> "nn.Module":
        if self.depth == 9:
            return self._nine(spec)
        if self.depth == 18:
            return self._stages(spec, channels=(64, 128, 256, 512), blocks=2)
        return self._stages(spec, channels=(16, 32, 64), blocks=(self.depth - 2) // 6)

    def _stages(self, spec: DataSpec, channels: tuple[int, ...], blocks: int) -> "nn.Module":
        """A stem, stages of ``blocks`` blocks of two convolutions each, the mean over the image, a linear layer."""
        from torch import nn

        from gradlab.layers import Residual, convolution

        width = channels[0] * self.width
        layers: list[nn.Module] = [convolution(spec.channels, width, activation=nn.ReLU())]
        for stage, stage_channels in enumerate(channels):
            wide = stage_channels * self.width
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                body = nn.Sequential(
                    convolution(width, wide, stride=stride, activation=nn.ReLU()),
                    convolution(wide, wide),
                )
                same_shape = stride == 1 and width == wide
                shortcut = None if same_shape else convolution(width, wide, size=1, stride=stride)
                layers.append(Residual(body, shortcut, nn.ReLU()))
                width = wide
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(spec.classes)))

    def _nine(self, spec: DataSpec) -> "nn.Module":
        from torch import nn

        from gradlab.layers import Residual, Scale, convolution

        def pooled(channels_in: int, channels_out: int) -> nn.Sequential:
            return nn.Sequential(convolution(channels_in, channels_out, activation=nn.ReLU()), nn.MaxPool2d(2))

        def residual(channels: int) -> nn.Module:
            two = (convolution(channels, channels, activation=nn.ReLU()) for _ in range(2))
            return Residual(nn.Sequential(*two))

        first = 64 * self.width
        return nn.Sequential(
            convolution(spec.channels, first, activation=nn.ReLU()),
            pooled(first, 2 * first),
            residual(2 * first),
            pooled(2 * first, 4 * first),
            pooled(4 * first, 8 * first),
            residual(8 * first),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * first, len(spec.classes), bias=False),
            Scale(0.125),
        )
