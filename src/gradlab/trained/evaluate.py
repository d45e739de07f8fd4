"""``gradlab evaluate``: how well a trained network does on a dataset, its own or another."""

import csv
import json
import math
import sys
from typing import Any

import hydra
import numpy as np
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from gradlab.config import Origin, choice
from gradlab.data.datasets.base import Dataset, Examples, Splits, StreamedExamples
from gradlab.data.device import DeviceImages, Source, evaluation_batch
from gradlab.data.stream import StreamedImages
from gradlab.entry import CONFIGS, explain
from gradlab.errors import ConfigError
from gradlab.trained.find import Found
from gradlab.trained.network import Trained, open_trained

Z_95 = 1.959963984540054
SPLITTING = ("split_seed", "test_fraction", "val_fraction")
"""The fields of a dataset that decide which images are trained on."""


def evaluate(
    found: Found,
    overrides: list[str],
    *,
    split: str,
    form: str,
    device: str,
    imports: list[str],
) -> int:
    """Print how well a run's best network does; returns 0.

    Args:
        found: the run.
        overrides: ``data=…`` and ``data.key=value``; none for the run's own data.
        split: ``train``, ``val``, ``test`` or ``all`` of the dataset.
        form: ``table``, ``csv`` or ``json``.
        device, imports: see ``open_trained``.

    Raises:
        ConfigError: the run, the data or their fit is wrong.
    """
    trained = open_trained(found.checkpoint, device, imports)
    dataset = dataset_of(trained, overrides)
    labels_of = fit_of_classes(trained, dataset)
    parts = parts_of(dataset.load(), split)
    answers = torch.cat([answer(trained, examples) for examples in parts])
    labels = np.array(labels_of)[np.concatenate([examples.labels for examples in parts])]
    report = {
        "run": found.said,
        "data": dataset.name,
        "split": split,
        "note": note(trained, dataset),
        **measures(answers, torch.from_numpy(labels), trained.spec.classes),
    }
    if form == "json":
        print(json.dumps(report, indent=2))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, ["class", "images", "recall", "precision"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(report["classes"])
    else:
        print_report(report)
    return 0


def dataset_of(trained: Trained, overrides: list[str]) -> Dataset:
    """The run's own dataset, or the one that ``overrides`` make of it."""
    for override in overrides:
        if not override.startswith(("data=", "data.", "+data.")) or "=" not in override:
            raise ConfigError(f"'{override}' is no override of the data: give data=… or data.key=value.")
    recorded = trained.config["data"]
    try:
        if any(override.startswith("data=") for override in overrides):
            with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
                values = OmegaConf.to_container(hydra.compose("config", overrides).data, resolve=True)
        else:
            dotted = [override.removeprefix("+").removeprefix("data.") for override in overrides]
            values = OmegaConf.to_container(OmegaConf.merge(recorded, OmegaConf.from_dotlist(dotted)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error)) from error
    dataset: Dataset = choice("data", values, Origin(overrides, {"data": str(recorded.get("name"))}))
    return dataset


def fit_of_classes(trained: Trained, dataset: Dataset) -> list[int]:
    """For each class of ``dataset`` the network's class of the same name.

    Raises:
        ConfigError: the images have another shape, or a class is none of the network's.
    """
    spec, ours = dataset.spec(), trained.spec
    if spec.image_shape != ours.image_shape:
        theirs, mine = ("×".join(map(str, shape)) for shape in (spec.image_shape, ours.image_shape))
        raise ConfigError(
            f"The network takes images of {mine} (channels × height × width), as data={ours.name} has them, and "
            f"data={spec.name} has {theirs}."
        )
    unknown = [name for name in spec.classes if name not in ours.classes]
    if unknown:
        raise ConfigError(
            f"data={spec.name} has the class '{unknown[0]}', which the network was not trained on. "
            f"It knows: {', '.join(ours.classes)}."
        )
    return [ours.classes.index(name) for name in spec.classes]


def note(trained: Trained, dataset: Dataset) -> str | None:
    """A warning where images of this dataset may have been trained on, though they are called validation or test."""
    recorded = trained.config["data"]
    if dataset.name != recorded["name"]:
        return None
    moved = [key for key in SPLITTING if key in recorded and getattr(dataset, key, None) != recorded[key]]
    if not moved:
        return None
    return f"data.{moved[0]} is not that of the run, so the network may have been trained on some of these images"


def parts_of(splits: Splits, split: str) -> list[Examples]:
    """One split, or all three."""
    names = ("train", "val", "test") if split == "all" else (split,)
    return [getattr(splits, name) for name in names]


def answer(trained: Trained, examples: Examples) -> torch.Tensor:
    """Logits [n, classes], float32 or float64, on the CPU."""
    where = StreamedImages if isinstance(examples, StreamedExamples) else DeviceImages
    source: Source = where(examples, trained.device)
    batches = source.in_order(evaluation_batch(examples.image_shape))
    return torch.cat([trained.logits(raw).cpu() for raw in batches])


def measures(logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy with its 95 % interval (Wilson, 1927), mean cross-entropy in nats, and recall and precision by class.

    A class without images has no recall, one that is never answered no precision: None.
    """
    predictions = logits.argmax(1)
    count = len(classes)
    table = torch.bincount(labels * count + predictions, minlength=count * count).reshape(count, count).tolist()
    right = sum(table[i][i] for i in range(count))
    rows = []
    for index, name in enumerate(classes):
        images, answered = sum(table[index]), sum(row[index] for row in table)
        rows.append(
            {
                "class": name,
                "images": images,
                "recall": table[index][index] / images if images else None,
                "precision": table[index][index] / answered if answered else None,
            }
        )
    return {
        "images": len(labels),
        "correct": right,
        "accuracy": right / len(labels),
        "accuracy_95": wilson(right, len(labels)),
        "loss": float(F.cross_entropy(logits, labels, reduction="none").double().mean()),
        "classes": rows,
    }


def wilson(right: int, images: int) -> list[float]:
    """The 95 % confidence interval of a share, ``right`` of ``images``."""
    share, spread = right / images, Z_95**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def print_report(report: dict[str, Any]) -> None:
    console, (low, high) = Console(), report["accuracy_95"]
    console.print(f"run       {report['run']}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"data      {report['data']}, {report['split']}: {report['images']:,} images", highlight=False)
    console.print(
        f"accuracy  {report['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%})   loss {report['loss']:.4f}",
        highlight=False,
    )
    if report["note"]:
        console.print(f"mind      {report['note']}", highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class")
    for heading in ("images", "recall", "precision"):
        table.add_column(heading, justify="right")
    for row in report["classes"]:
        shares = ("–" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision"))
        table.add_row(row["class"], f"{row['images']:,}", *shares)
    console.print(table)
