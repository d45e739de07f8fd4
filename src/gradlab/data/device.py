"""Images that live on the training device, and the chunks of mini-batches that are cut from them.

A dataset is one uint8 tensor of images and one int64 tensor of labels. A mini-batch is an index select and a
normalisation on the device: no worker processes, no copies between host and device, no Python for each image.

A *source* knows where images are and hands them out as they are stored; a *preparation* makes of them what the network
sees. So every source gives the same batches.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from gradlab.data.augmenter import Augmenter
from gradlab.data.datasets.base import Examples, StreamedExamples
from gradlab.durations import Horizon
from gradlab.seeds import generator


class Batch(NamedTuple):
    """What the network sees, on the device.

    images: floats [batch, channels, height, width], normalised.
    labels: int64 [batch].
    others: where images were mixed with others (mixup, CutMix), the labels of those, int64 [batch]; else None.
    share: the share of ``labels`` in a mixed image, float [batch] in [0, 1]; the rest is that of ``others``; else None.
    """

    images: torch.Tensor
    labels: torch.Tensor
    others: torch.Tensor | None = None
    share: torch.Tensor | None = None


class Pick(NamedTuple):
    """Which images make a mini-batch: ``indices`` int64 [batch] into the training set, in data epoch ``epoch``."""

    epoch: int
    indices: torch.Tensor


Raw = tuple[torch.Tensor, torch.Tensor]
"""Images as they are stored [batch, channels, height, width] and labels int64 [batch]; both on the training device."""


class Source(Protocol):
    """One split, wherever its images are.

    index_device: where ``Pick.indices`` shall be.
    """

    index_device: torch.device

    def __len__(self) -> int: ...

    def batches(self, picks: Iterable[Pick]) -> Iterator[Raw]:
        """The images of each pick, in that order; may read ahead."""

    def in_order(self, batch_size: int) -> Iterator[Raw]:
        """All images once, in their own order, for evaluation."""


@dataclass(frozen=True)
class Normalization:
    """What is subtracted from each channel and what it is then divided by, float64 [channels], on the images' own scale.

    For bytes that is the scale of 0 to 255. By default they are the channel's mean and standard deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def chosen(cls, how: str, examples: Examples) -> "Normalization":
        """The one that ``data.normalization`` names: ``standard`` or ``none``; ``examples`` are the training images."""
        return cls.of(examples) if how == "standard" else cls.none(examples)

    @classmethod
    def none(cls, examples: Examples) -> "Normalization":
        """Bytes come out from 0 to 1, as torchvision's ToTensor makes them; floats as they are."""
        floats = not isinstance(examples, StreamedExamples) and examples.images.dtype != np.uint8
        ones = torch.ones(examples.image_shape[0], dtype=torch.float64)
        return cls(0 * ones, ones if floats else 255 * ones)

    @classmethod
    def of(cls, examples: Examples) -> "Normalization":
        """The statistics of the training images: of bytes from exact sums of whole numbers, of floats in float64."""
        if not isinstance(examples, StreamedExamples) and examples.images.dtype != np.uint8:
            values = examples.images.astype(np.float64)
            axes = (0, 2, 3)
            std = np.where(values.min(axes) == values.max(axes), 0.0, values.std(axes))  # rounding hides that it is 0
            return cls._of(torch.from_numpy(values.mean(axes)), torch.from_numpy(std))
        pixels = len(examples) * math.prod(examples.image_shape[1:])
        sums, squares = examples.moments().tolist()
        means = torch.tensor([total / pixels for total in sums], dtype=torch.float64)
        # pixels² times the variance, in whole numbers of any length: nothing cancels.
        spreads = [pixels * square - total * total for total, square in zip(sums, squares, strict=True)]
        return cls._of(means, torch.tensor([math.sqrt(spread) / pixels for spread in spreads], dtype=torch.float64))

    @classmethod
    def _of(cls, mean: torch.Tensor, std: torch.Tensor) -> "Normalization":
        # A channel that never varies carries nothing; dividing it by 1 keeps it at 0 instead of at NaN.
        return cls(mean, torch.where(std > 0, std, torch.ones_like(std)))


class DeviceImages:
    """One split on the device, from which batches are taken by index.

    Args:
        examples: the images and labels.
        device: where they live from now on.
    """

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.images = torch.from_numpy(examples.images).to(device)
        self.labels = torch.from_numpy(examples.labels).to(device)
        self.index_device = self.labels.device

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, picks: Iterable[Pick]) -> Iterator[Raw]:
        for _, indices in picks:
            yield self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def in_order(self, batch_size: int) -> Iterator[Raw]:
        return zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)


class Preparation:
    """From stored images to what the network sees.

    Args:
        normalization: of the training images, whichever split is prepared.
        device: of the images.
        dtype: of the float images handed out.
        augmenter: of the training images; or None to leave them as they are.
    """

    def __init__(
        self,
        normalization: Normalization,
        device: torch.device,
        dtype: torch.dtype,
        augmenter: Augmenter | None = None,
    ) -> None:
        self._augmenter = augmenter
        self._mean = normalization.mean.to(device, dtype)[:, None, None]
        self._scale = (1 / normalization.std).to(device, dtype)[:, None, None]

    def training(self, raw: Raw, pick: Pick) -> Batch:
        """A mini-batch to train on."""
        images, labels = raw
        if self._augmenter is None:
            return Batch(self.normalize(images), labels)
        batch = self._augmenter(Batch(images, labels), pick)
        return batch._replace(images=self.normalize(batch.images))

    def evaluation(self, raw: Raw) -> Batch:
        """Images to be judged: never augmented."""
        images, labels = raw
        return Batch(self.normalize(images), labels)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Stored images [batch, channels, height, width] to floats: (image − mean) / std of each channel."""
        return torch.sub(images, self._mean).mul_(self._scale)


class Chunk:
    """Consecutive mini-batches, handed to Lightning as one batch: its Python for a batch is paid once for all of them.

    ``first_step`` is the optimizer step of the first mini-batch, 0 for a run's first. Iterating makes the batches, once:
    each a ``Batch``, or a tuple of them from ``SideBySide``.
    """

    def __init__(self, first_step: int, steps: int, batches: Iterator[Any]) -> None:
        self.first_step = first_step
        self._steps = steps
        self._batches = batches

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self._batches, self._steps)


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
        preparation: makes batches of them.
        batch_size: images to a step.
        seed: of the run.
        horizon: length of the run; ``steps_per_epoch`` must be ⌈images / batch_size⌉.
        round_steps: steps between validations.
        stop_every: a chunk ends at every multiple of so many steps; None where only rounds end one.
    """

    def __init__(
        self,
        source: Source,
        preparation: Preparation,
        batch_size: int,
        seed: int,
        horizon: Horizon,
        round_steps: int,
        stop_every: int | None = None,
    ) -> None:
        self.source = source
        self.preparation = preparation
        self.batch_size = batch_size
        self.seed = seed
        self.horizon = horizon
        self.round_steps = round_steps
        self.stop_every = stop_every
        self.pace = Pace()
        self.next_step = 0
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Chunk]:
        if self._batches is None:
            self._batches = self.made_from(self.next_step)
        end = min(self.horizon.total_steps, (self.next_step // self.round_steps + 1) * self.round_steps)
        while self.next_step < end:
            first = self.next_step
            self.next_step = min(end, first + self.pace.steps)
            if self.stop_every is not None:
                self.next_step = min(self.next_step, (first // self.stop_every + 1) * self.stop_every)
            yield Chunk(first, self.next_step - first, self._batches)

    def picks(self, first_step: int) -> Iterator[Pick]:
        """The images of every optimizer step from ``first_step`` to the end of the run."""
        epoch, batch = divmod(first_step, self.horizon.steps_per_epoch)
        left = self.horizon.total_steps - first_step
        while left > 0:
            order = torch.randperm(len(self.source), generator=generator(self.seed, "order", epoch))
            for indices in order.to(self.source.index_device).split(self.batch_size)[batch : batch + left]:
                left -= 1
                yield Pick(epoch, indices)
            epoch, batch = epoch + 1, 0

    def made_from(self, first_step: int) -> Iterator[Any]:
        """The batches of every optimizer step from ``first_step`` on."""
        ours, theirs = itertools.tee(self.picks(first_step))  # a source may read ahead
        return map(self.preparation.training, self.source.batches(theirs), ours)


class SideBySide(TrainingChunks):
    """The training set as runs with different seeds see it at the same time: a step has a tuple of batches, one for each.

    Args:
        parts: the chunks of each seed, alike in all else.
    """

    def __init__(self, parts: Sequence[TrainingChunks]) -> None:
        first = parts[0]
        super().__init__(
            first.source,
            first.preparation,
            first.batch_size,
            first.seed,
            first.horizon,
            first.round_steps,
            first.stop_every,
        )
        self.parts = parts

    def made_from(self, first_step: int) -> Iterator[tuple[Batch, ...]]:
        return zip(*(part.made_from(first_step) for part in self.parts), strict=True)


def evaluation_batch(image_shape: Sequence[int]) -> int:
    """Images that are judged at once: 500, and fewer of those above 64×64 in RGB, whose activations would fill the memory."""
    return max(1, min(500, 6_200_000 // math.prod(image_shape)))


class EvaluationBatches:
    """A split in its own order, in large batches."""

    def __init__(self, source: Source, preparation: Preparation, batch_size: int = 500) -> None:
        self.source = source
        self.preparation = preparation
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.preparation.evaluation, self.source.in_order(self.batch_size))
