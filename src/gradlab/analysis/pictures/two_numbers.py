"""Two swept numbers: a heat map of the metric, one for each group."""

import math

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from gradlab.analysis.grouping import Grouped, Setting, lost, shown
from gradlab.analysis.pictures.style import GREY, RED, SEQUENCE, Look, figure, group_name, number_axis, plain, tidy

MOST_CELLS, MOST_PANELS = 15, 6


def heat_map(grouped: Grouped, best: Setting | None, look: Look) -> Figure | None:
    """Cells of the mean, a red cross where all seeds diverged, the best outlined; points where the grid is too fine."""
    key_x, key_y = grouped.numbers[:2]
    xs, ys = (
        sorted({v for s in grouped.settings if isinstance(v := s.values.get(key), int | float)})
        for key in (key_x, key_y)
    )
    if not 2 <= len(xs) <= MOST_CELLS or not 2 <= len(ys) <= MOST_CELLS:
        return _points(grouped, best, look) if min(len(xs), len(ys)) > 1 else None
    groups = grouped.groups[:MOST_PANELS]
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    cell = 0.62
    drawn = figure(max(columns * (cell * len(xs) + 1.1) + 1.2, 5.0), rows * (0.42 * len(ys) + 1.2) + 0.4)
    means = [setting.mean for setting in grouped.settings if setting.n]
    norm = Normalize(min(means, default=0), max(means, default=1))
    panels = list(drawn.subplots(rows, columns, squeeze=False).flat)
    image = None
    for axes, group in zip(panels, groups, strict=False):
        table = np.full((len(ys), len(xs)), math.nan)
        members = [setting for setting in grouped.settings if grouped.group_of(setting) == group]
        for setting in members:
            x, y = xs.index(setting.values[key_x]), ys.index(setting.values[key_y])  # type: ignore[arg-type]
            table[y, x] = setting.mean
            if setting.n:
                bright = norm(setting.mean) > 0.6
                text = f"{100 * setting.mean:.1f}" if grouped.metric.share else f"{setting.mean:.3g}"
                axes.text(x, y, text + ("*" if lost(setting) else ""), ha="center", va="center", fontsize=8,
                          color="black" if bright else "white")  # fmt: skip
            elif setting.diverged:
                axes.plot(x, y, "x", color=RED, ms=10, mew=2.4)
            elif setting.stopped:
                axes.plot(x, y, "|", color=GREY, ms=10, mew=2.4)
            if setting is best:
                axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, ec="black", lw=2.2))
        image = axes.imshow(table, cmap=SEQUENCE, norm=norm, aspect="auto", origin="lower")
        axes.set_xticks(range(len(xs)), [shown(value) for value in xs], fontsize=8, rotation=30 if len(xs) > 6 else 0)
        axes.set_yticks(range(len(ys)), [shown(value) for value in ys], fontsize=8)
        axes.set_xlabel(_label(key_x))
        axes.set_ylabel(_label(key_y))
        if len(grouped.groups) > 1:
            axes.set_title(group_name(grouped, group), fontsize=10, loc="left")
    for axes in panels[len(groups) :]:
        axes.axis("off")
    if image is not None and means:
        bar = drawn.colorbar(image, ax=panels, shrink=0.85, label=f"mean {grouped.metric.words}")
        if grouped.metric.share:
            bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return drawn


def _points(grouped: Grouped, best: Setting | None, look: Look) -> Figure:
    """Every setting at its two numbers, the brighter the better; a group has its own marker."""
    key_x, key_y = grouped.numbers[:2]
    placed = [
        (x, y, setting)
        for setting in grouped.settings
        if isinstance(x := setting.values.get(key_x), int | float)
        and isinstance(y := setting.values.get(key_y), int | float)
    ]
    drawn = figure(8.2, 4.8)
    axes = drawn.subplots()
    gain = grouped.metric.gain
    means = [setting.mean for _, _, setting in placed if setting.n]
    norm = Normalize(min(means, default=0), max(means, default=1))
    colors = SEQUENCE if gain(1) > 0 else f"{SEQUENCE}_r"
    image = None
    for group in grouped.groups:
        alive = [(x, y, s.mean) for x, y, s in placed if s.n and grouped.group_of(s) == group]
        if alive:
            xs, ys, shades = zip(*sorted(alive, key=lambda one: gain(one[2])), strict=True)
            image = axes.scatter(
                xs, ys, c=shades, cmap=colors, norm=norm, marker=look.marker(group), s=42, lw=0.4, ec="#555555"
            )
    for x, y, setting in placed:
        if not setting.n and (setting.diverged or setting.stopped):
            mark, color = ("x", RED) if setting.diverged else ("|", GREY)
            axes.plot(x, y, mark, color=color, ms=8, mew=2)
        if setting is best:
            axes.plot(x, y, "o", ms=14, mfc="none", mec="#222222", mew=1.4)
    number_axis(axes, key_x, [x for x, _, _ in placed])
    number_axis(axes, key_y, [y for _, y, _ in placed], "y")
    tidy(axes)
    if image is not None:
        bar = drawn.colorbar(image, ax=axes, shrink=0.85, label=f"mean {grouped.metric.words}")
        if grouped.metric.share:
            bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(grouped.groups) > 1:
        handles = [
            Line2D([], [], color=GREY, marker=look.marker(g), ls="", label=group_name(grouped, g))
            for g in grouped.groups
        ]
        drawn.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return drawn


def _label(key: str) -> str:
    return "learning rate" if key == "optimizer.lr" else plain(key)
