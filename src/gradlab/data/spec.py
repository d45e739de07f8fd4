"""What is known of a dataset before any of it is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """Shape and counts of a dataset.

    image_shape: (channels, height, width) of every image.
    classes: the names of the classes; label i means ``classes[i]``.
    train_examples: images left to train on after the validation (and, where the set has none, the test) split.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_examples: int

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @property
    def height(self) -> int:
        return self.image_shape[1]

    @property
    def width(self) -> int:
        return self.image_shape[2]

    @property
    def pixels(self) -> int:
        """Numbers in one image, all channels."""
        return self.channels * self.height * self.width

    @property
    def planar(self) -> bool:
        """Whether the "images" are points in a plane: two numbers, and nothing to look at but where they lie."""
        return self.image_shape == (2, 1, 1)
