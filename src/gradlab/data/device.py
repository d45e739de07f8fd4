"""Images that live on the training device, and the chunks of mini-batches that are cut from them.

A dataset is one uint8 tensor of images and one int64 tensor of labels. A mini-batch is an index select and a
normalisation on the device: no worker processes, no copies between host and device, no Python for each image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gradlab.data.datasets.base import Examples
from gradlab.durations import Horizon
from gradlab.seeds import generator

Batch = tuple[torch.Tensor, torch.Tensor]
"""Float images [batch, channels, height, width], normalised, and int64 labels [batch]; both on the device."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, on the uint8 scale of 0 to 255; both [channels]."""

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, examples: Examples) -> "Normalization":
        """The statistics of the training images, exact: integer sums over a histogram of each channel."""
        levels = torch.arange(256, dtype=torch.float64)
        means, stds = [], []
        for channel in range(examples.images.shape[1]):
            pixels = torch.from_numpy(examples.images[:, channel].reshape(-1))
            counts = torch.bincount(pixels, minlength=256).double()
            mean = (counts * levels).sum() / counts.sum()
            means.append(mean)
            stds.append(((counts * (levels - mean) ** 2).sum() / counts.sum()).sqrt())
        std = torch.stack(stds)
        # A channel that never varies carries nothing; dividing it by 1 keeps it at 0 instead of at NaN.
        return cls(torch.stack(means), torch.where(std > 0, std, torch.ones_like(std)))


class DeviceImages:
    """One split on the device, from which batches are taken by index.

    Args:
        examples: the images and labels.
        normalization: of the training images, whichever split this is.
        device: where they live from now on.
        dtype: of the float images handed out.
    """

    def __init__(
        self, examples: Examples, normalization: Normalization, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.images = torch.from_numpy(examples.images).to(device)
        self.labels = torch.from_numpy(examples.labels).to(device)
        self._mean = normalization.mean.to(device, dtype)[:, None, None]
        self._scale = (1 / normalization.std).to(device, dtype)[:, None, None]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> Batch:
        """The images and labels at ``indices`` (int64 [batch], on the device), normalised."""
        return self.normalize(self.images.index_select(0, indices)), self.labels.index_select(0, indices)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [batch, channels, height, width] to floats of mean 0 and standard deviation 1 over the training set."""
        return torch.sub(images, self._mean).mul_(self._scale)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in their own order, for evaluation."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self.normalize(images), labels


class Chunk:
    """Consecutive mini-batches, handed to Lightning as one batch: its Python for a batch is paid once for all of them.

    ``first_step`` is the optimizer step of the first mini-batch, 0 for a run's first. Iterating makes the batches.
    """

    def __init__(self, source: DeviceImages, first_step: int, batches: list[torch.Tensor]) -> None:
        self.first_step = first_step
        self._source = source
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._source.batch, self._batches)


class Pace:
    """How many steps make a chunk of about ``seconds``, from the time that the steps so far have taken.

    A chunk ends with the only wait for the device, and with what must be timely: progress and journal. Its length
    changes no number of the training.
    """

    def __init__(self, seconds: float = 0.25) -> None:
        self.seconds = seconds
        self.steps = 8

    def record(self, steps: int, seconds: float) -> None:
        """A chunk of ``steps`` took ``seconds``. Growth is limited: the first chunks contain warming up."""
        ideal = int(self.seconds * steps / max(seconds, 1e-6))
        self.steps = min(max(1, ideal), 4 * self.steps)


class TrainingChunks:
    """The training set as chunks; one pass is one *round*, the steps up to the next validation.

    The order of epoch e is a permutation drawn from (seed, e) alone, so the batches of a step do not depend on what
    was trained before it in this process. The last batch of an epoch holds what is left, and an epoch's batches never
    mix with the next one's; a chunk may span epochs.

    Args:
        source: the training images.
        batch_size: images to a step.
        seed: of the run.
        horizon: length of the run; ``steps_per_epoch`` must be ⌈images / batch_size⌉.
        round_steps: steps between validations.
    """

    def __init__(self, source: DeviceImages, batch_size: int, seed: int, horizon: Horizon, round_steps: int) -> None:
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.horizon = horizon
        self.round_steps = round_steps
        self.pace = Pace()
        self.next_step = 0
        self._epoch = -1
        self._epoch_batches: tuple[torch.Tensor, ...] = ()

    def __iter__(self) -> Iterator[Chunk]:
        end = min(self.horizon.total_steps, (self.next_step // self.round_steps + 1) * self.round_steps)
        while self.next_step < end:
            first = self.next_step
            self.next_step = min(end, first + self.pace.steps)
            yield Chunk(self.source, first, [self.batch_indices(step) for step in range(first, self.next_step)])

    def batch_indices(self, step: int) -> torch.Tensor:
        """The images of optimizer step ``step``, int64 [batch], on the device."""
        epoch, batch = divmod(step, self.horizon.steps_per_epoch)
        if epoch != self._epoch:
            order = torch.randperm(len(self.source), generator=generator(self.seed, "order", epoch))
            self._epoch_batches = order.to(self.source.labels.device).split(self.batch_size)
            self._epoch = epoch
        return self._epoch_batches[batch]


class EvaluationBatches:
    """A split in its own order, in large batches."""

    def __init__(self, source: DeviceImages, batch_size: int = 500) -> None:
        self.source = source
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.source.in_order(self.batch_size)
