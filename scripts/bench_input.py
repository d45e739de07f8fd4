"""How fast images reach the network: gradlab's input path beside torchvision's DataLoader, same files, same transforms.

    .venv/bin/python scripts/bench_input.py --archive ../shared/data/cifar10-jpeg.tar.xz

The transforms are those of every CIFAR recipe: random crop with padding 4, random horizontal flip, normalisation; batches
of 128. The ways take turns after a warm-up turn each, and a row is the median of the turns in images a second:

* ``gradlab``: images as bytes in memory, whole batches cropped, flipped and normalised at once.
* ``DataLoader, arrays``: decoded images in memory, as torchvision's CIFAR10 has them; PIL transforms image by image.
* ``DataLoader, files``: torchvision's ImageFolder over the JPEG files, decoded in every epoch.

Before that: seconds of the first load (from the archive, decoding everything) and of the cached load of ``image_folder``.
"""

import argparse
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from gradlab import environment
from gradlab.config import build_config
from gradlab.data.datasets.base import Splits
from gradlab.entry import CONFIGS
from gradlab.prepare import image_data

ROOT = Path(__file__).resolve().parents[1]
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
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = [
            "data=image_folder", f"data.root={archive}", f"data.cache_dir={cache}", f"data.batch_size={BATCH}",
            "model=cnn", "augment=[crop,flip]",
        ]  # fmt: skip
        config = build_config(hydra.compose("config", overrides))
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the input path beside torchvision's DataLoader.")
    parser.add_argument("--archive", type=Path, required=True, help="cifar10-jpeg.tar.xz, one folder per class")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        splits, config, first = load(arguments.archive, cache)
        _, _, cached = load(arguments.archive, cache)
        print(f"first load {first:.1f} s, cached load {cached:.2f} s, {len(splits.train):,} training images")
        files = Path(scratch) / "files"
        with tarfile.open(arguments.archive) as archive:
            archive.extractall(files, filter="data")
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
            "gradlab": lambda: rate(gradlab_batches(config, splits), 40_000),
            "DataLoader, arrays": lambda: rate(loader_batches(arrays), 10_000),
            "DataLoader, files": lambda: rate(loader_batches(folder), 10_000),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(arguments.turns + 1):
            for name, way in ways.items():
                speed = way()
                if turn > 0:
                    found[name].append(speed)
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        print(
            f"{name:<20}{medians[name]:>12,.0f} images/s ({min(values):,.0f}–{max(values):,.0f})   "
            f"gradlab is {medians['gradlab'] / medians[name]:.1f} times as fast"
        )
    record = {
        "hardware": environment.processor(),
        "versions": environment.versions(),
        "turns": arguments.turns,
        "first_load_seconds": first,
        "cached_load_seconds": cached,
        "images_per_second": {
            name: {"median": medians[name], "min": min(values), "max": max(values)} for name, values in found.items()
        },
    }
    file = ROOT / "experiments" / "speed" / "input_cpu.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
