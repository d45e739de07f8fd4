"""A sample of the training images, for what must see some before the training starts: data-dependent initialisation."""

import numpy as np
import torch

from gradlab.data.datasets.base import Splits
from gradlab.data.device import Normalization, Preparation


def sample_images(
    splits: Splits, normalization: Normalization, count: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """At most ``count`` training images as the network will see them, [n, channels, height, width] on the CPU.

    Always the same ones, evenly spread over the training set: some sets are stored class by class, and the first images of
    such a set are all of one class.
    """
    total = len(splits.train)
    indices = np.arange(min(count, total)) * total // min(count, total)
    images = torch.from_numpy(splits.train.take(indices).images)
    return Preparation(normalization, torch.device("cpu"), dtype).normalize(images)
