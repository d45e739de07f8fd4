"""Applies a run's augmentations to a mini-batch on its device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gradlab.data import draws
from gradlab.data.augment import Augmentation, Scene

if TYPE_CHECKING:
    from gradlab.data.device import Batch, Pick


class Augmenter:
    """Augmentations in their order. What happens to an image follows from (seed, epoch, its index) and nothing else.

    All numbers of a mini-batch are drawn at once. Each augmentation has keys of its own, by its name: listing another
    one changes none of its numbers.

    Args:
        augmentations: in the order in which they are applied.
        seed: of the run.
        mean: of each channel over the training images, [channels], 0 to 255.
        device: of the images.
        dtype: of float images.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        seed: int,
        mean: torch.Tensor,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.augmentations = tuple(augmentations)
        self.mean = mean.round().to(device, torch.uint8)[:, None, None]
        self.dtype = dtype
        self._counts = [entry.numbers for entry in self.augmentations]
        every = [draws.keys(seed, entry.name, entry.numbers, device) for entry in self.augmentations]
        self._keys = torch.cat(every) if every else torch.empty(0, dtype=torch.int64, device=device)
        varies = [int(number >= entry.lasting) for entry in self.augmentations for number in range(entry.numbers)]
        self._varies = torch.tensor(varies, dtype=torch.int64).to(device)
        self._epoch = -1

    def __call__(self, batch: "Batch", pick: "Pick") -> "Batch":
        """``batch`` augmented: stored images in, images of the same scale (0 to 255) out; bytes, or floats of ``dtype``."""
        if pick.epoch != self._epoch:
            self._epoch, self._epoch_keys = pick.epoch, draws.in_epoch(self._keys, pick.epoch, self._varies)
        numbers = draws.uniform(self._epoch_keys, pick.indices.to(self._keys.device))
        for entry, own in zip(self.augmentations, numbers.split(self._counts), strict=True):
            batch = entry.apply(batch, Scene(pick.epoch, own, self.mean, self.dtype))
        return batch
