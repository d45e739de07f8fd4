"""What a network has made of a plane: its answer everywhere, and the points that it was trained and tested on."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from gradlab.data.datasets.base import Examples, Splits

if TYPE_CHECKING:
    from torch import nn

    from gradlab.data.device import Normalization, Preparation

# Blue and orange of Okabe and Ito (2008): apart for every kind of colour vision, and in grey.
COLOURS = ("#0072b2", "#e69f00")
MARKERS = ("o", "s")
ACROSS = 300
"""Places at which the network is asked, along the longer side."""


def decision_boundary(
    model: "nn.Module", splits: Splits, classes: tuple[str, ...], normalization: "Normalization"
) -> Figure:
    """The probability of the second of two classes over the plane, as shading; 50 % is the line between them.

    Training points are small and pale, test points large, those with a wrong answer crossed out.

    Args:
        model: the network, with the weights that shall be shown.
        splits: points [n, 2, 1, 1], of which all are drawn but the validation's.
        classes: the names of the two classes.
        normalization: as in the network's training.
    """
    from gradlab.data.device import Preparation

    weight = next(model.parameters())
    preparation = Preparation(normalization, weight.device, weight.dtype)
    everything = np.concatenate([_points(part) for part in (splits.train, splits.val, splits.test)])
    width, height = np.ptp(everything, axis=0)
    figure = Figure(figsize=(7.6, min(max(5.9 * height / width, 2.5), 12.0) + 1.3), layout="constrained")
    axes = figure.subplots()
    shading = draw_plane(axes, model, preparation, splits.train, everything)
    test = _points(splits.test)
    wrong = probabilities(model, preparation, test).argmax(1) != splits.test.labels
    for label, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=True)):
        x, y = test[splits.test.labels == label].T
        axes.scatter(x, y, s=30, c=colour, marker=marker, edgecolors="black", lw=0.6)
    x, y = test[wrong].T
    axes.scatter(x, y, s=70, c="black", marker="x", lw=1.3)
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    axes.set_title(f"{len(test) - wrong.sum():,} of {len(test):,} test points right", fontsize=11)
    bar = figure.colorbar(shading, ax=axes, label=f"probability of “{classes[1]}”", shrink=0.85)
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bar.ax.axhline(0.5, color="black", lw=1.4)
    figure.legend(handles=_legend(classes, bool(wrong.any())), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_plane(
    axes: Axes, model: "nn.Module", preparation: "Preparation", train: Examples, within: npt.NDArray[np.float64]
) -> AxesImage:
    """Shade the plane around the points ``within`` by what the network says, and draw the training points into it."""
    low, high = within.min(0), within.max(0)
    margin = 0.08 * (high - low).max()
    low, high = low - margin, high + margin
    step = (high - low).max() / ACROSS
    xs, ys = (np.arange(start, end + step, step) for start, end in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    shares = probabilities(model, preparation, grid.reshape(-1, 2))[:, 1].reshape(grid.shape[:2])
    extent = (xs[0], xs[-1], ys[0], ys[-1])
    colours = LinearSegmentedColormap.from_list("two classes", [COLOURS[0], "white", COLOURS[1]])
    shading = axes.imshow(
        shares, cmap=colours, vmin=0, vmax=1, origin="lower", extent=extent, alpha=0.45, interpolation="bilinear"
    )
    if shares.min() < 0.5 < shares.max():
        axes.contour(xs, ys, shares, levels=[0.5], colors="black", linewidths=1.4)
    for label, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=True)):
        x, y = _points(train)[train.labels == label].T
        axes.scatter(x, y, s=9, c=colour, marker=marker, alpha=0.6, linewidths=0)
    axes.set_xlim(xs[0], xs[-1])
    axes.set_ylim(ys[0], ys[-1])
    axes.set_aspect("equal")
    return shading


def _legend(classes: tuple[str, ...], any_wrong: bool) -> list[Line2D]:
    handles = []
    for name, colour, marker in zip(classes, COLOURS, MARKERS, strict=True):
        handles += [
            Line2D([], [], ls="", marker=marker, color=colour, label=f"{name}, test", ms=6, mec="black", mew=0.6),
            Line2D([], [], ls="", marker=marker, color=colour, label=f"{name}, training", ms=3.5, mew=0, alpha=0.6),
        ]
    handles.append(Line2D([], [], color="black", lw=1.4, label="50 %"))
    if any_wrong:
        handles.append(Line2D([], [], ls="", marker="x", color="black", ms=8, mew=1.3, label="wrong answer"))
    return handles


def _points(examples: Examples) -> npt.NDArray[np.float64]:
    return examples.images.reshape(-1, 2).astype(np.float64)


def probabilities(
    model: "nn.Module", preparation: "Preparation", points: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What the network says of ``points`` [n, 2]: [n, classes]. They are prepared as in its training."""
    import torch

    weight = next(model.parameters())
    images = torch.from_numpy(points.astype(np.float32).reshape(-1, 2, 1, 1)).to(weight.device)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(preparation.normalize(part)) for part in images.split(10_000)])
    return logits.double().softmax(1).cpu().numpy()
