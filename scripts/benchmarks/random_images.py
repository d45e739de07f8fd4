"""``data=random_images``: noise of any shape and number. A step costs what it costs on photographs, and there is no file."""

from dataclasses import dataclass

import numpy as np

from gradlab.bounds import check_length, check_number
from gradlab.data.datasets.base import DATASETS, Batched, Examples, Splits, fingerprint, held_out, stratified_split
from gradlab.data.spec import DataSpec


@DATASETS.register("random_images")
@dataclass(frozen=True)
class RandomImages(Batched):
    """Noise in ten classes; a tenth as many images again are the test set.

    batch_size, val_fraction, split_seed, class_weights, normalization: see Batched.
    shape: channels, height, width.
    examples: images for training and validation together, ≥ 20.
    """

    shape: list[int]
    examples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, "shape", 3)
        check_number(self, "shape", at_least=1)
        check_number(self, "examples", at_least=20)

    def spec(self) -> DataSpec:
        channels, height, width = self.shape
        train = self.examples - held_out(self.examples, self.val_fraction)
        return DataSpec(
            name=self.name,
            image_shape=(channels, height, width),
            classes=tuple("0123456789"),
            train_examples=train,
        )

    def load(self) -> Splits:
        generator = np.random.Generator(np.random.PCG64(0))

        def draw(count: int) -> Examples:
            images = generator.integers(0, 256, (count, *self.shape), dtype=np.uint8)
            return Examples(images, np.arange(count, dtype=np.int64) % 10)

        everything, test = draw(self.examples), draw(max(10, self.examples // 10))
        train, val = stratified_split(everything, self.val_fraction, self.split_seed, part=1)
        return Splits(train, val, test, fingerprint(everything))
