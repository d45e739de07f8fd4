"""The figure of a run's augmentations: what the network saw of a few training images."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from gradlab.data.datasets.base import Examples
from gradlab.data.device import Batch, Pick
from gradlab.data.spec import DataSpec
from gradlab.tracking.folder import RunFolder

if TYPE_CHECKING:
    from gradlab.data.augmenter import Augmenter

ROWS, EPOCHS = 6, 8
INK, PALE = "#222222", "#777777"


def draw_augmented(folder: RunFolder, spec: DataSpec, train: Examples, augmenter: "Augmenter | None") -> None:
    """Draw ``plots/augmented.png``; nothing without augmentations, or where examples are not pictures."""
    if augmenter is not None and spec.channels in (1, 3) and min(spec.height, spec.width) > 1:
        folder.plots.mkdir(exist_ok=True)
        augmented(train, spec.classes, augmenter).savefig(folder.plots / "augmented.png", dpi=110)


def augmented(train: Examples, classes: tuple[str, ...], augmenter: "Augmenter") -> Figure:
    """A row for the first image of each of the first classes: as it is stored, then as each epoch saw it.

    Only an image that is mixed differs from what was trained on: it is mixed with one of those shown, not with one of its
    batch; its shares are written below it. ``augmenter`` is one for the CPU.
    """
    firsts = np.unique(train.labels, return_index=True)[1][:ROWS]
    images, labels = torch.from_numpy(train.at(firsts)), torch.from_numpy(train.labels[firsts])
    epochs = [augmenter(Batch(images, labels), Pick(epoch, torch.from_numpy(firsts))) for epoch in range(EPOCHS)]
    mixed = epochs[0].share is not None
    rows, columns = len(firsts), EPOCHS + 1
    figure = Figure(
        figsize=(1.12 * columns + 0.8, (1.38 if mixed else 1.12) * rows + 0.7),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.06),
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, label in enumerate(labels.tolist()):
        _show(grid[row, 0], images[row].numpy())
        grid[row, 0].set_ylabel(classes[label], color=INK, fontsize=10)
        for column, batch in enumerate(epochs, start=1):
            _show(grid[row, column], batch.images[row].clamp(0, 255).round().byte().numpy())
            if mixed:
                grid[row, column].set_xlabel(_shares(batch, row, classes), color=PALE, fontsize=7.5, labelpad=2)
    grid[0, 0].set_title("original", color=INK, fontsize=10)
    for column in range(1, columns):
        grid[0, column].set_title(f"epoch {column}", color=PALE, fontsize=10)
    for axes in grid[:, 0]:
        for spine in axes.spines.values():
            spine.set(visible=True, color=INK, linewidth=1.2)
    figure.suptitle(" → ".join(entry.name for entry in augmenter.augmentations), color=INK, fontsize=12)
    return figure


def _show(axes: Axes, image: npt.NDArray[np.uint8]) -> None:
    pixels = np.moveaxis(image, 0, -1)
    axes.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _shares(batch: Batch, row: int, classes: tuple[str, ...]) -> str:
    """``3: 70 %, 8: 30 %``, or the class alone where nothing was mixed in; in two lines where names are long."""
    assert batch.others is not None
    assert batch.share is not None
    percent = round(100 * float(batch.share[row]))
    first, second = classes[int(batch.labels[row])], classes[int(batch.others[row])]
    if percent == 100:
        return first
    between = ", " if len(first + second) <= 4 else "\n"
    return f"{first}: {percent} %{between}{second}: {100 - percent} %"
