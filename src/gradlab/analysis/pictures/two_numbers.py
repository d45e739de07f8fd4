"""Two swept numbers: a heat map of the metric, one for each group."""

import math

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from gradlab.analysis.grouping import Grouped, Setting, lost, shown
from gradlab.analysis.pictures.style import GREY, RED, SEQUENCE, figure, group_name, plain

MOST_CELLS, MOST_PANELS = 15, 6


def heat_map(grouped: Grouped, best: Setting | None) -> Figure | None:
    """Cells of the mean, a red cross where all seeds diverged, the best outlined; None where the grid is too fine."""
    key_x, key_y = grouped.numbers[:2]
    xs, ys = (
        sorted({v for s in grouped.settings if isinstance(v := s.values.get(key), int | float)})
        for key in (key_x, key_y)
    )
    if not 2 <= len(xs) <= MOST_CELLS or not 2 <= len(ys) <= MOST_CELLS:
        return None
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


def _label(key: str) -> str:
    return "learning rate" if key == "optimizer.lr" else plain(key)
