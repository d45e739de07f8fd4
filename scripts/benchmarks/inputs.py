"""How fast images reach the network: gradlab's input path beside torchvision's DataLoader, same files, same transforms.

The transforms are those of every CIFAR recipe: random crop with padding 4, random horizontal flip, normalisation; batches
of 128. The ways take turns after a warm-up turn each, and a row is the median of the turns in images a second:

* ``gradlab``: images as bytes in memory, whole batches cropped, flipped and normalised at once.
* ``DataLoader, arrays``: decoded images in memory, as torchvision's CIFAR10 has them; PIL transforms image by image.
* ``DataLoader, files``: torchvision's ImageFolder over the JPEG files, decoded in every epoch.

Before that: seconds of the first load (from the archive, decoding everything) and of the cached load of ``image_folder``.
"""

import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.turns import spread
from benchmarks.workloads import compose
from gradlab.data.datasets.base import Splits
from gradlab.prepare import image_data

BATCH = 128


class Arrays(Dataset[tuple[Any, int]]):
    """Decoded images in memory, handed to PIL transforms one by one: what torchvision.datasets.CIFAR10 does."""

    def __init__(
        self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], transform: Callable[[Any], Any]
    ) -> None:
        self.images = images.transpose(0, 2, 3, 1)
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def load(archive: Path, cache: Path) -> tuple[Splits, Any, float]:
    """The splits of the archive, its configuration, and the seconds that loading took."""
    overrides = [
        "data=image_folder", f"data.root={archive}", f"data.cache_dir={cache}", f"data.batch_size={BATCH}",
        "model=cnn", "augment=[crop,flip]",
    ]  # fmt: skip
    config = compose(overrides)
    began = time.perf_counter()
    config.spec  # noqa: B018 - part of what a user waits for
    splits = config.data.load()
    return splits, config, time.perf_counter() - began


def gradlab_batches(config: Any, splits: Splits) -> Iterator[int]:
    data = image_data([config], splits)
    data.place(torch.device("cpu"))
    for chunk in data.train_dataloader():
        for batch in chunk:
            yield len(batch.labels)


def loader_batches(dataset: Dataset[Any]) -> Iterator[int]:
    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=len(os.sched_getaffinity(0)), persistent_workers=False
    )
    for _, labels in loader:
        yield len(labels)


def rate(batches: Iterator[int], images: int) -> float:
    """Images a second, from the second batch (workers have started) on, over about ``images`` images."""
    next(batches)
    began, done = time.perf_counter(), 0
    for count in batches:
        done += count
        if done >= images:
            break
    return done / (time.perf_counter() - began)


def measure(archive: Path, turns: int, images: int = 40_000) -> dict[str, Any]:
    """Images a second by each way, over ``images`` of them (a quarter for the slower ways), and seconds of the loads."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        splits, config, first = load(archive, cache)
        _, _, cached = load(archive, cache)
        files = Path(scratch) / "files"
        with tarfile.open(archive) as opened:
            opened.extractall(files, filter="data")
        (train,) = (path for path in files.rglob("train") if path.is_dir())
        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.262)),
            ]
        )
        arrays = Arrays(np.asarray(splits.train.images), splits.train.labels, transform)
        folder = ImageFolder(str(train), transform)
        ways: dict[str, Callable[[], float]] = {
            "gradlab": lambda: rate(gradlab_batches(config, splits), images),
            "DataLoader, arrays": lambda: rate(loader_batches(arrays), images // 4),
            "DataLoader, files": lambda: rate(loader_batches(folder), images // 4),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(-1, turns):
            for name, way in ways.items():
                speed = way()
                if round_ >= 0:
                    found[name].append(speed)
    return {
        "turns": turns,
        "first_load_seconds": first,
        "cached_load_seconds": cached,
        "images_per_second": {name: spread(values) for name, values in found.items()},
    }
