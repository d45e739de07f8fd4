"""The figure of activations and gradients by layer, from the looks that a run took into its layers."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gradlab.probe import LayerState

PANELS = (
    ("activation_mean", "activations: mean"),
    ("activation_std", "activations: spread (standard deviation)"),
    ("dead_share", "dead units"),
    ("gradient_mean", "gradients of the activations: mean"),
    ("gradient_std", "gradients of the activations: spread"),
    ("weight_gradient_std", "gradients of the weights: spread"),
)
MOST_LINES = 12


def layers_figure(states: Sequence[LayerState]) -> Figure:
    """Six panels over the depth of the network; a line for each look, from dark (start) to light (end)."""
    steps = sorted({state.step for state in states})
    chosen = sorted({steps[round(i * (len(steps) - 1) / (MOST_LINES - 1))] for i in range(MOST_LINES)})
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True)
    colors, scale = matplotlib.colormaps["viridis"], Normalize(steps[0], max(steps[-1], 1))
    for axes, (quantity, title) in zip(grid.flat, PANELS, strict=True):
        for step in chosen:
            rows = [state for state in states if state.step == step]
            depth = [state.depth for state in rows]
            values = np.array([getattr(state, quantity) for state in rows])
            axes.plot(depth, values, "o-", ms=3.5, lw=1.3, color=colors(0.93 * scale(step)), clip_on=False, zorder=3)
        _scale(axes, quantity, states)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_layers(grid, states)
    mapped = matplotlib.cm.ScalarMappable(Normalize(steps[0], max(steps[-1], 1) / 0.93), colors)
    bar = figure.colorbar(mapped, ax=list(grid.flat), shrink=0.7, pad=0.01)
    bar.set_label("optimizer step")
    bar.ax.set_ylim(steps[0], max(steps[-1], 1))
    return figure


def _scale(axes: Axes, quantity: str, states: Sequence[LayerState]) -> None:
    values = np.array([getattr(state, quantity) for state in states])
    if quantity == "dead_share":
        axes.set_ylim(0, max(0.05, 1.05 * values.max()))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif quantity.endswith("_std") and (values > 0).any():
        axes.set_yscale("log")
        low, high = values[values > 0].min(), values.max()
        axes.set_ylim(low / 2, high * 2)
        if (values == 0).any():
            axes.text(0.98, 0.03, "0 where no point is", transform=axes.transAxes, ha="right", fontsize=8, color="0.4")
    elif not values.any():
        axes.text(0.5, 0.5, "all 0", transform=axes.transAxes, ha="center", color="0.4")
    else:
        axes.axhline(0, color="0.6", lw=0.8)


def _name_layers(grid: "np.ndarray[tuple[int, int], np.dtype[np.object_]]", states: Sequence[LayerState]) -> None:
    """Names below the lower panels where they fit, numbers where they do not."""
    names = {state.depth: state.layer for state in states}
    for axes in grid[1]:
        if len(names) <= 10:
            axes.set_xticks(list(names), [f"{depth}\n{name}" for depth, name in names.items()], fontsize=7)
            axes.set_xlabel("layer, in the order of computation")
        else:
            axes.set_xlabel("layer, in the order of computation (names in model/layer_states.csv)")
