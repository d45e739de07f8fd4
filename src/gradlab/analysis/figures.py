"""The figures of one run, drawn from its journal and its test answers, as PNG files in ``plots/``."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gradlab.analysis.boundary import decision_boundary
from gradlab.data.datasets.base import Examples, Splits
from gradlab.data.spec import DataSpec
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import metric_rows

if TYPE_CHECKING:
    from gradlab.data.device import Normalization
    from gradlab.learner import Learner
    from gradlab.ledger import Divergence

TRAIN, VAL, RED = "#8ab4d8", "#1f4e79", "#c0392b"
Series = tuple[list[int], list[float]]


def draw_run(
    folder: RunFolder, spec: DataSpec, splits: Splits, learner: "Learner", normalization: "Normalization"
) -> None:
    """Draw every figure of a run; those of the test set only where it was read."""
    folder.plots.mkdir(exist_ok=True)
    curves(folder.journal, learner.ledger.divergence).savefig(folder.plots / "curves.png", dpi=110)
    learning_rate(folder.journal).savefig(folder.plots / "learning_rate.png", dpi=110)
    if len(learner.test_labels):
        labels = learner.test_labels.cpu().numpy()
        probabilities = learner.test_logits.softmax(1).cpu().numpy()
        kind = "points" if spec.planar else "images"
        confusion = confusion_matrix(labels, probabilities.argmax(1), spec.classes, kind)
        confusion.savefig(folder.plots / "confusion.png", dpi=110)
        if spec.planar:
            boundary = decision_boundary(learner.model, splits, spec.classes, normalization)
            boundary.savefig(folder.plots / "decision_boundary.png", dpi=110)
        else:
            mistakes(splits.test, labels, probabilities, spec.classes).savefig(folder.plots / "mistakes.png", dpi=110)


def series(journal: Path, name: str) -> Series:
    """The steps and values of one metric, in the journal's order."""
    rows = [(step, values[name]) for step, values in metric_rows(journal) if name in values]
    return [step for step, _ in rows], [value for _, value in rows]


def curves(journal: Path, divergence: "Divergence | None" = None) -> Figure:
    """Loss and accuracy against the optimizer step, training beside validation; a red cross where the run diverged."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, metric in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        for split, color, label in (("train", TRAIN, "training"), ("val", VAL, "validation")):
            steps, values = series(journal, f"{split}/{metric}")
            finite = np.isfinite(values)
            marker = "o" if split == "val" and len(steps) <= 60 else ""
            axes.plot(np.array(steps)[finite], np.array(values)[finite], color=color, label=label, marker=marker, ms=3)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.25)
    loss_axes.set_ylabel("cross-entropy (nats)")
    loss_axes.set_yscale("log")
    accuracy_axes.set_ylabel("accuracy")
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _, best = series(journal, "best/val_accuracy")
    _, best_step = series(journal, "best/step")
    if best:
        accuracy_axes.plot(best_step[-1], best[-1], "*", color=VAL, ms=12, label=f"best validation {best[-1]:.2%}")
    # The first steps of any training are near chance; shown in full, they would press all the rest into a line.
    steps, values = series(journal, "train/accuracy")
    settled = [value for step, value in zip(steps, values, strict=True) if step > steps[-1] / 20]
    lowest = min([*settled, *series(journal, "val/accuracy")[1], 1.0])
    accuracy_axes.set_ylim(max(0.0, 1 - 1.15 * (1 - lowest)) if lowest < 1 else 0.9, 1 + 0.05 * max(1 - lowest, 0.02))
    if divergence is not None:
        for axes in (loss_axes, accuracy_axes):
            axes.axvline(divergence.step, color=RED, lw=0.8, ls=":")
            axes.plot(
                [divergence.step], [0.02], "x", color=RED, ms=10, mew=2.5, transform=axes.get_xaxis_transform(),
                clip_on=False, label=f"diverged at step {divergence.step:,}",
            )  # fmt: skip
    loss_axes.legend(frameon=False)
    accuracy_axes.legend(frameon=False)
    return figure


def learning_rate(journal: Path) -> Figure:
    """The learning rate that each logged step used."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot(*series(journal, "lr"), color=VAL)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    return figure


def confusion_matrix(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], classes: tuple[str, ...], kind: str = "images"
) -> Figure:
    """Test images (or whatever ``kind`` they are) by true class (rows) and answer (columns), counted; coloured by the share of the row."""
    count = len(classes)
    table = np.bincount(labels * count + predictions, minlength=count * count).reshape(count, count)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.45 * count + 1.5), 14.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes: Axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 30:
        for row, column in np.argwhere(table > 0):
            color = "white" if shares[row, column] > 0.5 else "black" if row == column else RED
            axes.text(column, row, str(table[row, column]), ha="center", va="center", color=color, fontsize=9)
        axes.set_xticks(range(count), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
        axes.set_yticks(range(count), classes)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    right = int(np.trace(table))
    axes.set_title(f"{right:,} of {len(labels):,} test {kind} right", fontsize=11)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    return figure


def mistakes(
    examples: Examples,
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
    classes: tuple[str, ...],
    most: int = 24,
) -> Figure:
    """A sheet of the wrong test images, the most confidently wrong first."""
    answers = probabilities.argmax(1)
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")]
    shown = wrong[:most]
    columns = 8
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(10, 1.55 * rows + 0.5), layout="constrained")
    figure.suptitle(
        f"{len(wrong):,} of {len(labels):,} test images wrong"
        + (f"; the {len(shown)} most confident" if len(wrong) > len(shown) else ""),
        fontsize=11,
    )
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, index, stored in zip(figure.axes, shown, examples.at(shown), strict=False):
        image = np.moveaxis(stored, 0, -1)
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        answer = answers[index]
        axes.set_title(
            f"{classes[answer]}, {probabilities[index, answer]:.0%} sure\nis {classes[labels[index]]}", fontsize=8
        )
    return figure
