"""A sample of the training images, for what must see some beside the training: data-dependent starts, looks into layers."""

import numpy as np
import torch

from gradlab.data.datasets.base import Splits
from gradlab.data.device import Batch, Normalization, Preparation


def sample(splits: Splits, normalization: Normalization, count: int, dtype: torch.dtype = torch.float32) -> Batch:
    """At most ``count`` training images as the network will see them, not augmented, on the CPU.

    Always the same ones, evenly spread over the training set: some sets are stored class by class, and the first images of
    such a set are all of one class.
    """
    total = len(splits.train)
    indices = np.arange(min(count, total)) * total // min(count, total)
    chosen = splits.train.take(indices)
    raw = torch.from_numpy(chosen.images), torch.from_numpy(chosen.labels)
    return Preparation(normalization, torch.device("cpu"), dtype).evaluation(raw)
