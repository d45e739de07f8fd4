"""The network of ``model=speed``: whitened patches, then blocks that begin as the identity."""

from collections import OrderedDict

import torch
from torch import nn

from gradlab.layers import Scale, keep

EPSILON = 5e-4  # added to the patches' variances: directions that hardly vary must not be blown up
HEAD_SCALE = 1 / 9


class SpeedNet(nn.Sequential):
    """See ``models.speed.Speed``; ``padding`` is that of the whitening convolution.

    The layers' own initialisation is that of torch, but the first filters of each 3×3 convolution pass one input channel on.
    """

    def __init__(self, channels: int, widths: list[int], classes: int, padding: int) -> None:
        self.size = 2
        filters = 2 * channels * self.size**2
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["whitening"] = nn.Conv2d(channels, filters, self.size, padding=padding)
        layers["activation"] = nn.GELU()
        for number, width in enumerate(widths, start=1):
            layers[f"block{number}"] = _block(filters, width)
            filters = width
        layers["pool"] = nn.AdaptiveMaxPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["head"] = nn.Linear(filters, classes, bias=False)
        layers["scale"] = Scale(HEAD_SCALE)
        super().__init__(layers)
        whitening = self.whitening_layer
        whitening.weight.requires_grad_(False)
        assert whitening.bias is not None
        nn.init.zeros_(whitening.bias)
        keep(whitening)

    @property
    def whitening_layer(self) -> nn.Conv2d:
        layer = self.get_submodule("whitening")
        assert isinstance(layer, nn.Conv2d)
        return layer

    @torch.no_grad()
    def start_from_images(self, images: torch.Tensor) -> None:
        """Set the first layer to the principal directions of the images' patches, each scaled to variance 1, and their negatives.

        With eigenvectors e and eigenvalues λ of the second moments of the patches (which are centred, as the images are),
        the filters are ±e/√(λ + 0.0005), the largest λ first.
        """
        layer = self.whitening_layer
        patches = nn.functional.unfold(images.double(), self.size).transpose(0, 1).flatten(1)
        variances, directions = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
        # An eigenvector's sign is arbitrary, and differs between machines: its largest entry shall be positive.
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        filters = (directions * largest.sign() / (variances + EPSILON).sqrt()).T.flip(0)
        layer.weight.copy_(torch.cat([filters, -filters]).reshape(layer.weight.shape))


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(channels_in, channels_out),
        nn.MaxPool2d(2),
        _norm(channels_out),
        nn.GELU(),
        _convolution(channels_out, channels_out),
        _norm(channels_out),
        nn.GELU(),
    )


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:channels_in])
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with a bias and no scale; its running statistics keep 0.6 of themselves at each step."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=1 - 0.6)
    layer.weight.requires_grad_(False)
    return layer
