"""The LightningDataModule of a run: its three splits on the device, and the loaders over them."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from gradlab.data.augment import Augmentation
from gradlab.data.augmenter import Augmenter
from gradlab.data.datasets.base import Splits
from gradlab.data.device import DeviceImages, EvaluationBatches, Normalization, Preparation, Source, TrainingChunks
from gradlab.durations import Horizon


class ImageData(pl.LightningDataModule):
    """Splits in memory, moved to the Trainer's device in ``setup`` and kept there.

    Args:
        splits: the images of the run.
        batch_size: images to an optimizer step.
        seed: of the run; decides the order of the batches and how images are augmented.
        horizon: length of the run.
        round_steps: steps between validations.
        dtype: of the float images.
        augmentations: of the training images, in the order in which they are applied.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        batch_size: int,
        seed: int,
        horizon: Horizon,
        round_steps: int,
        dtype: torch.dtype = torch.float32,
        augmentations: Sequence[Augmentation] = (),
    ) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed
        self.horizon = horizon
        self.round_steps = round_steps
        self.dtype = dtype
        self.augmentations = augmentations
        self.normalization = Normalization.of(splits.train)
        self._sources: dict[str, Source] = {}

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        if not self._sources:
            device = self.trainer.strategy.root_device
            for name in ("train", "val", "test"):
                self._sources[name] = DeviceImages(getattr(self.splits, name), device)
            self._preparation = Preparation(self.normalization, device, self.dtype, self.augmenter(device))

    def augmenter(self, device: torch.device | str) -> Augmenter | None:
        """The run's augmentations, for images on ``device``; None where there are none."""
        if not self.augmentations:
            return None
        return Augmenter(self.augmentations, self.seed, self.normalization.mean, device, self.dtype)

    def train_dataloader(self) -> TrainingChunks:
        return TrainingChunks(
            self._sources["train"], self._preparation, self.batch_size, self.seed, self.horizon, self.round_steps
        )

    def val_dataloader(self) -> EvaluationBatches:
        return EvaluationBatches(self._sources["val"], self._preparation)

    def test_dataloader(self) -> EvaluationBatches:
        return EvaluationBatches(self._sources["test"], self._preparation)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move: batches are made on the device."""
        return batch
