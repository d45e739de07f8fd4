"""What all pictures of a comparison share: colours, axes, labels that do not cover each other.

A group (an optimizer, or whatever else is a choice and no number) has one colour, line and marker in every picture. The
colours are Okabe and Ito's (2008), told apart by colour-blind readers too, without the vermilion, because red means
"diverged" here.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from gradlab.analysis.edges import is_logarithmic
from gradlab.analysis.grouping import Grouped, shown
from gradlab.analysis.metric import Metric

RED, GREY, INK = "#c0392b", "#8a8a8a", "#222222"
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#4d4d4d", "#8c564b")
LineStyle = Literal["-", "--", ":"]
LINES: tuple[LineStyle, ...] = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 120
SEQUENCE = "viridis"


class Look:
    """The colour, line and marker of every group."""

    def __init__(self, groups: Sequence[str]) -> None:
        self._index = {group: index for index, group in enumerate(groups)}

    def color(self, group: str) -> str:
        return COLORS[self._index.get(group, 0) % len(COLORS)]

    def line(self, group: str) -> LineStyle:
        return LINES[self._index.get(group, 0) // len(COLORS) % len(LINES)]

    def marker(self, group: str) -> str:
        index = self._index.get(group, 0)
        return MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def metric_axis(
    axes: Axes, metric: Metric, values: Sequence[float], which: str = "y", label: str | None = None
) -> None:
    """Limits around ``values`` that do not pretend to more than 100 %, and the metric's own numbers."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    finite = [value for value in values if np.isfinite(value)]
    if finite:
        low, high = min(finite), max(finite)
        pad = max(0.04 * (high - low), 0.004 if metric.share else 1e-3 * abs(high) or 1e-3)
        limits = (max(low - pad, -0.01), min(high + pad, 1 + 0.3 * pad)) if metric.share else (low - pad, high + pad)
        (axes.set_ylim if which == "y" else axes.set_xlim)(*limits)
    if metric.share:
        axis.set_major_formatter(PercentFormatter(1.0))
    (axes.set_ylabel if which == "y" else axes.set_xlabel)(metric.words if label is None else label)


def number_axis(axes: Axes, key: str, values: Sequence[float], which: str = "x") -> None:
    """The axis of a swept number: logarithmic where its grid is, with the grid's own values as ticks where they fit."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    ordered = sorted(set(values))
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    if is_logarithmic(ordered, key):
        if ordered[0] > 0:
            set_scale("log")
        else:  # zero has no logarithm: the part below the lowest positive value is linear
            set_scale("symlog", linthresh=ordered[1], linscale=0.5)
    if len(ordered) <= 12 and not _crowded(ordered, is_logarithmic(ordered, key)):
        axis.set_major_locator(FixedLocator(ordered))
        axis.set_major_formatter(FuncFormatter(lambda value, _: shown(float(value))))
        axis.set_minor_locator(NullLocator())
        if len(ordered) > 8 or max(len(shown(value)) for value in ordered) > 6:
            axis.set_tick_params(rotation=30 if which == "x" else 0)
    elif (axes.get_xscale() if which == "x" else axes.get_yscale()) == "log":
        axis.set_major_locator(LogLocator(numticks=12))
        axis.set_minor_formatter(NullFormatter())
    (axes.set_xlabel if which == "x" else axes.set_ylabel)("learning rate" if key == "optimizer.lr" else key)


def _crowded(ordered: Sequence[float], logarithmic: bool) -> bool:
    """Whether two neighbours are too near for a tick each, as those of a search are."""
    places = np.log(ordered) if logarithmic and ordered[0] > 0 else np.array(ordered, dtype=float)
    return len(places) > 2 and bool(np.diff(places).min() < 0.04 * (places[-1] - places[0]))


def label_lines(axes: Axes, labels: Sequence[tuple[str, str, float, float]]) -> None:
    """Names to the right of the axes, each (text, colour, x, y) led to its line's end, none over another."""
    low, high = axes.get_ylim()
    wanted = sorted(labels, key=lambda label: label[3])
    gap = min(0.055, 0.98 / max(len(wanted), 1))
    places: list[float] = []
    for _, _, _, y in wanted:
        place = (y - low) / (high - low)
        places.append(max(place, places[-1] + gap) if places else max(place, 0.0))
    over = places[-1] - 1 if places else 0.0
    if over > 0:  # shift down, as far as those below let it
        limit = 1.0
        for index in range(len(places) - 1, -1, -1):
            places[index] = min(places[index], limit)
            limit = places[index] - gap
    for (text, color, x, y), place in zip(wanted, places, strict=True):
        axes.annotate(
            text, xy=(x, y), xytext=(1.03, place), textcoords="axes fraction", color=color, va="center", fontsize=9,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.7, "alpha": 0.5, "shrinkA": 0, "shrinkB": 3},
            annotation_clip=False,
        )  # fmt: skip


def cut(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def group_name(grouped: Grouped, group: str) -> str:
    return plain(cut(group or "all settings"))
