"""The LightningDataModule of a run: its three splits on the device, and the loaders over them."""

import math
from collections.abc import Sequence

import torch

from gradlab.data.augment import Augmentation
from gradlab.data.augmenter import Augmenter
from gradlab.data.datasets.base import Splits, StreamedExamples
from gradlab.data.device import (
    DeviceImages,
    EvaluationBatches,
    Normalization,
    Preparation,
    SideBySide,
    Source,
    TrainingChunks,
    evaluation_batch,
)
from gradlab.data.stream import StreamedImages
from gradlab.durations import Horizon
from gradlab.lightning import pl


class ImageData(pl.LightningDataModule):
    """Splits on the Trainer's device, where they are brought in ``setup`` and kept; those that do not fit are streamed to it.

    Args:
        splits: the images of the run.
        batch_size: images to an optimizer step.
        seeds: of the run; decides the order of the batches and how images are augmented. Of several, each has its own.
        horizon: length of the run.
        round_steps: steps between validations.
        dtype: of the float images.
        augmentations: of the training images, in the order in which they are applied.
        normalization: ``standard`` or ``none``, see ``Batched``.
        stop_every: see ``TrainingChunks``.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        batch_size: int,
        seeds: Sequence[int],
        horizon: Horizon,
        round_steps: int,
        dtype: torch.dtype = torch.float32,
        augmentations: Sequence[Augmentation] = (),
        normalization: str = "standard",
        stop_every: int | None = None,
    ) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.seeds = seeds
        self.horizon = horizon
        self.round_steps = round_steps
        self.stop_every = stop_every
        self.first_step = 0
        """The optimizer step at which the training begins: above 0 where it is gone on with."""
        self.dtype = dtype
        self.augmentations = augmentations
        self.normalization = Normalization.chosen(normalization, splits.train)
        self._sources: dict[str, Source] = {}

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.place(self.trainer.strategy.root_device)

    def place(self, device: torch.device) -> str:
        """Bring the images to ``device``, once; returns where they are, in words."""
        splits = {name: getattr(self.splits, name) for name in ("train", "val", "test")}
        if not self._sources:
            free = _free(device, self.splits.device_share)
            for name, examples in splits.items():
                fits = examples.decoded_bytes <= free and not isinstance(examples, StreamedExamples)
                free -= examples.decoded_bytes if fits else 0
                self._sources[name] = DeviceImages(examples, device) if fits else StreamedImages(examples, device)
            self._preparations = [
                Preparation(self.normalization, device, self.dtype, self.augmenter(device, seed)) for seed in self.seeds
            ]
        train, total = self._sources["train"], sum(examples.decoded_bytes for examples in splits.values())
        if not isinstance(train, StreamedImages):
            return f"{_bytes(total)} on the device"
        by = f"by {train.workers} workers" if train.workers else "from memory"
        return f"{_bytes(total)} decoded, streamed {by}"

    def augmenter(self, device: torch.device | str, seed: int | None = None) -> Augmenter | None:
        """The augmentations of the run with ``seed``, or of the first, for images on ``device``; None where there are none."""
        if not self.augmentations:
            return None
        return Augmenter(
            self.augmentations, self.seeds[0] if seed is None else seed, self.normalization.mean, device, self.dtype
        )

    def close(self) -> None:
        """End the processes that read images, where there are any."""
        for source in self._sources.values():
            if isinstance(source, StreamedImages):
                source.close()

    def train_dataloader(self) -> TrainingChunks:
        chunks = [
            TrainingChunks(
                self._sources["train"],
                preparation,
                self.batch_size,
                seed,
                self.horizon,
                self.round_steps,
                self.stop_every,
            )
            for seed, preparation in zip(self.seeds, self._preparations, strict=True)
        ]
        together = chunks[0] if len(chunks) == 1 else SideBySide(chunks)
        together.next_step = self.first_step
        return together

    def val_dataloader(self) -> EvaluationBatches:
        return self._evaluation("val")

    def test_dataloader(self) -> EvaluationBatches:
        return self._evaluation("test")

    def _evaluation(self, name: str) -> EvaluationBatches:
        size = evaluation_batch(self.splits.train.image_shape)
        return EvaluationBatches(self._sources[name], self._preparations[0], size)


def _free(device: torch.device, share: float) -> float:
    """Bytes that images may take on ``device``. Those in the host's memory are there already."""
    return share * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def _bytes(count: int) -> str:
    """``count`` bytes in a unit of its size: 150 MB."""
    scaled, units = float(count), iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while scaled >= 1000 and unit != "TB":
        scaled, unit = scaled / 1000, next(units)
    return f"{scaled:,.3g} {unit}"
