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


class SamePool(nn.MaxPool2d):
    """Max pooling whose output has ⌈side / stride⌉ pixels: TensorFlow's padding ``SAME``, for windows of 2 or 3 at stride 2."""

    def __init__(self, size: int) -> None:
        super().__init__(size, stride=2, ceil_mode=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # An odd side gives a window of 3 one pixel of padding at either end; all else is cut off at the far end.
        padding = [side % 2 if self.kernel_size == 3 else 0 for side in images.shape[-2:]]
        return nn.functional.max_pool2d(images, self.kernel_size, self.stride, padding, ceil_mode=True)


class PreActivation(nn.Module):
    """A residual block that normalises before it convolves (He et al., 2016b): the shortcut carries the sum unchanged.

    norm → ReLU → 3×3 → norm → ReLU → dropout → 3×3, and the input is added. Where the shape changes, a 1×1 convolution of
    the normalised input is added instead.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.activation = nn.ReLU()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        )
        same_shape = channels_in == channels_out and stride == 1
        self.shortcut = None if same_shape else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        active = self.activation(self.norm(images))
        carried = images if self.shortcut is None else self.shortcut(active)
        return carried + self.body(active)  # type: ignore[no-any-return]


_KEPT = "keeps_its_start"


def keep(module: nn.Module) -> None:
    """Mark ``module`` and all within: no initialiser may set it (``initializers.initialize``)."""
    for layer in module.modules():
        setattr(layer, _KEPT, True)


def is_kept(layer: nn.Module) -> bool:
    """Whether ``keep`` has marked this layer."""
    return getattr(layer, _KEPT, False)


class PartlyFrozen(nn.Module):
    """``network`` with modules that training does not change: no gradients, and evaluation's behaviour for good.

    So their BatchNorm normalises by its running statistics and leaves them alone, and their dropout is off.

    Args:
        network: the whole.
        frozen: modules of it.
        parameters: single parameters of it, such as a class token.
    """

    def __init__(self, network: nn.Module, frozen: list[nn.Module], parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.network = network
        self._frozen = tuple(frozen)  # a tuple, not a ModuleList: they are in the network already
        for parameter in [*parameters, *(each for module in frozen for each in module.parameters())]:
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PartlyFrozen":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)  # type: ignore[no-any-return]
