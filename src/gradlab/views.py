"""How a trained network is asked: for its answer to an image alone, or for the mean of those to several views of it.

Test-time augmentation, as in airbench (Jordan, 2024, https://arxiv.org/abs/2404.00498, section 3.5): half of the answer is that to the
image and its mirror image, half that to the image moved by a pixel to the upper left and to the lower right, each with its mirror image.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VIEWS = ("plain", "mirrored", "shifted")
"""``plain``: the image; ``mirrored``: and its mirror image; ``shifted``: and both moved by a pixel, six views in all."""


def answers(network: "Callable[[torch.Tensor], torch.Tensor]", images: "torch.Tensor", views: str) -> "torch.Tensor":
    """The network's mean answer to ``views`` of ``images`` [batch, channels, height, width]: what it returns, logits [batch, classes].

    A population's answers are [members, batch, classes].
    """
    if views == "plain":
        return network(images)

    def both_ways(seen: "torch.Tensor") -> "torch.Tensor":
        return 0.5 * (network(seen) + network(seen.flip(3)))

    if views == "mirrored":
        return both_ways(images)
    from torch.nn.functional import pad

    height, width = images.shape[2:]
    padded = pad(images, (1, 1, 1, 1), mode="reflect")
    moved = both_ways(padded[:, :, :height, :width]) + both_ways(padded[:, :, 2:, 2:])
    return 0.5 * both_ways(images) + 0.25 * moved
