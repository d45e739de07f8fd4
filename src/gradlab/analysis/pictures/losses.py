"""Training loss against step, in order of the learning rate: too low crawls, too high jumps, diverges or stalls."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from gradlab.analysis.grouping import Grouped, Setting, shown
from gradlab.analysis.pictures.by_number import lines_of
from gradlab.analysis.pictures.style import GREY, RED, SEQUENCE, Look, cut, figure, group_name, plain, tidy
from gradlab.analysis.records import ENDED, STOPPED
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import metric_rows

POINTS = 60
MANY = 100
"""Of a logarithmic axis the ends' ratio from which on the powers of ten are marks enough. To place the others takes as long as the curves."""
MOST_PANELS, MOST_CURVES, MOST_IN_LEGEND = 12, 12, 12
Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def loss_curve(folder: Path) -> Curve:
    """Steps and training loss of a run, thinned to ``POINTS`` means; what is not finite is left out."""
    steps, losses = [], []
    try:
        for step, values in metric_rows(RunFolder(folder).journal):
            loss = values.get("train/loss", math.nan)
            if math.isfinite(loss):
                steps.append(step)
                losses.append(loss)
    except (OSError, ValueError, KeyError):
        pass  # a journal that is gone or damaged has no curve
    x, y = np.array(steps, dtype=np.float64), np.array(losses, dtype=np.float64)
    if len(x) <= POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), POINTS)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def losses(grouped: Grouped, key: str | None, look: Look, ranked: Sequence[Setting]) -> Figure | None:
    """A panel for each group with a curve for each value of ``key``; without a number, a curve for each setting.

    One seed of each setting is drawn, the first: a mean over seeds would hide the jumps.
    """
    if key is None:
        return _of_settings(grouped, look, ranked[:MOST_CURVES])
    lines, note = lines_of(grouped, key, look)
    lines = lines[:MOST_PANELS]
    values = sorted({value for line in lines for value, _ in line.points})
    if not values:
        return None
    columns = min(len(lines), 4 if len(lines) > 6 else 3)
    rows = -(-len(lines) // columns)
    drawn = figure(max(6.4, 3.1 * columns + 1.2), 3.0 * rows + 0.5 if columns > 1 else 4.2)
    panels = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    norm = _norm(values)
    colors = mpl.colormaps[SEQUENCE]
    extremes: list[float] = []
    for axes, line in zip(panels, lines, strict=False):
        for value, setting in line.points:
            extremes += _draw(axes, setting, colors(0.92 * norm(value)))
        # Of a second number the line is a value of it, and its name says so.
        axes.set_title(plain(cut(line.name)) or "", fontsize=10, loc="left")
        tidy(axes)
    for axes in panels[len(lines) :]:
        axes.axis("off")
    if not extremes:
        return None
    _loss_axes(drawn, extremes)
    name = "learning rate" if key == "optimizer.lr" else key
    if len(values) <= MOST_IN_LEGEND:
        handles = [Line2D([], [], color=colors(0.92 * norm(value)), lw=2.5, label=shown(value)) for value in values]
        handles.append(Line2D([], [], color=RED, marker="x", ls="", mew=2, label="diverged"))
        if any(setting.stopped for setting in grouped.settings):
            handles.append(Line2D([], [], color=GREY, marker="|", ls="", ms=9, mew=2, label="stopped early"))
        drawn.legend(handles=handles, title=plain(name), loc="outside right upper", frameon=False, fontsize=9)
    else:
        shade = mpl.cm.ScalarMappable(
            mpl.colors.LogNorm(values[0], values[-1]) if isinstance(norm, LogNorm) else mpl.colors.Normalize(values[0], values[-1]),
            mpl.colors.ListedColormap(colors(np.linspace(0, 0.92, 256))),
        )  # fmt: skip
        bar = drawn.colorbar(shade, ax=drawn.axes, label=plain(name), shrink=0.8)
        if values[0] > 0 and values[-1] / values[0] >= MANY:
            bar.minorticks_off()
    if note:
        drawn.suptitle(plain(note), fontsize=9, color="#555555", x=0.01, ha="left")
    return drawn


def _norm(values: Sequence[float]) -> mpl.colors.Normalize:
    if len(values) == 1:
        return mpl.colors.Normalize(values[0] - 1, values[0] + 1)
    if values[0] > 0 and values[-1] / values[0] >= 10:
        return LogNorm(values[0], values[-1])
    return mpl.colors.Normalize(values[0], values[-1])


def _draw(axes: Axes, setting: Setting, color: object) -> list[float]:
    """The curve of one run of a setting, its first seed's that left one; a mark at its end where it diverged or was stopped."""
    for run in setting.runs:
        if run.folder is None or run.status not in ENDED:
            continue
        steps, curve = loss_curve(run.folder)
        if not len(steps):
            if run.status != "diverged" or run.diverged_at is None:
                continue
            # Gone before the first row: there is a place on the axis, and no height.
            axes.plot(
                run.diverged_at, 0.97, "x", color=RED, ms=7, mew=2, transform=axes.get_xaxis_transform(), clip_on=False
            )
            return []
        axes.plot(steps, curve, color=color, lw=1.4)
        if run.status == "diverged":
            axes.plot(steps[-1], curve[-1], "x", color=RED, ms=7, mew=2, zorder=4, clip_on=False)
        if run.status in STOPPED:
            axes.plot(steps[-1], curve[-1], "|", color=GREY, ms=9, mew=2, zorder=4, clip_on=False)
        return [float(value) for value in curve]
    return []


def _of_settings(grouped: Grouped, look: Look, settings: Sequence[Setting]) -> Figure | None:
    drawn = figure(7.6, 4.2)
    axes = drawn.subplots()
    extremes: list[float] = []
    for setting in settings:
        group = grouped.group_of(setting)
        found = _draw(axes, setting, look.color(group))
        if found:
            axes.lines[-1].set_linestyle(look.line(group))
            axes.lines[-1].set_label(group_name(grouped, setting.name))
        extremes += found
    if not extremes:
        return None
    tidy(axes)
    _loss_axes(drawn, extremes)
    drawn.legend(loc="outside right upper", frameon=False, fontsize=9)
    return drawn


def _loss_axes(drawn: Figure, extremes: Sequence[float]) -> None:
    """One logarithmic axis for all panels; a loss that explodes may not press the others into a line."""
    positive = np.array([value for value in extremes if value > 0])
    for axes in drawn.axes:
        if len(positive):
            axes.set_yscale("log")
            top = min(positive.max(), 100 * float(np.median(positive)))
            low, high = max(positive.min(), 1e-4) * 0.8, max(top, positive.min() * 2) * 1.3
            axes.set_ylim(low, high)
            if high / low >= MANY:
                axes.yaxis.set_minor_locator(NullLocator())
            for line in axes.lines:
                if line.get_marker() == "x" and line.get_transform() == axes.transData:  # a cross stays in sight
                    line.set_ydata(np.minimum(np.asarray(line.get_ydata(), dtype=float), axes.get_ylim()[1]))
        if axes.get_subplotspec() is not None and axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel("training loss (nats)")
    drawn.supxlabel("optimizer step", fontsize=10)
