"""Layers that the models share and torch does not have. Imports torch, so models import it inside ``build``."""

import torch
from torch import nn


def convolution(
    channels_in: int, channels_out: int, *, size: int = 3, stride: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """A convolution without bias, BatchNorm and, where given, an activation; keeps the image's size at stride 1."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    return nn.Sequential(*layers, *([activation] if activation else []))


class Residual(nn.Module):
    """``activation(shortcut(x) + body(x))``; without an activation, the sum itself."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.activation = activation or nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.activation(self.shortcut(images) + self.body(images))  # type: ignore[no-any-return]


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"
