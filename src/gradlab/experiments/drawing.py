"""What the experiments' figures are made of: curves over steps, and what networks make of a plane."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gradlab.analysis.figures import series
from gradlab.analysis.grouping import Setting
from gradlab.analysis.metric import Metric
from gradlab.analysis.pictures.style import COLORS, DPI, LINES, MARKERS, figure, tidy
from gradlab.analysis.records import Run
from gradlab.experiments.reading import by_seed, of
from gradlab.tracking.folder import RunFolder

__all__ = ["COLORS", "DPI", "Figure", "above", "bars", "curve", "figure", "over_rates", "plane", "tidy"]


def curve(axes: Axes, runs: Sequence[Run], metric: str, label: str, index: int) -> None:
    """A metric over the steps of a setting's runs, all in one colour; the first one carries the label, and how many seeds."""
    seeds = len({run.seed for run in runs})
    label = f"{label} ({seeds} seeds)" if seeds > 1 else label
    for place, run in enumerate(run for run in runs if run.folder):
        assert run.folder is not None
        steps, values = series(RunFolder(run.folder).journal, metric)
        finite = np.isfinite(values)
        axes.plot(
            np.array(steps)[finite], np.array(values)[finite], color=COLORS[index % len(COLORS)], lw=1.4 if len(runs) < 2 else 0.9,
            ls=LINES[index % len(LINES)] if len(runs) < 2 else "-", alpha=1 if len(runs) < 2 else 0.7, label=label if place == 0 else None,
        )  # fmt: skip
    axes.set_xlabel("step of gradient descent")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    tidy(axes)


def bars(axes: Axes, settings: Sequence[Setting], names: Sequence[str], metrics: dict[str, str]) -> None:
    """Means of metrics with their 95 % intervals, a row to a setting; every seed is a small point."""
    for index, (label, metric) in enumerate(metrics.items()):
        for row, setting in enumerate(settings):
            found, place = of(setting, metric), row + 0.22 * (index - (len(metrics) - 1) / 2)
            if found is None:
                continue
            values = list(by_seed(setting, metric).values())
            color = COLORS[index]
            axes.plot(values, [place] * len(values), ".", color=color, ms=3, alpha=0.5)
            half = found.half if np.isfinite(found.half) else 0.0
            ends = [[half], [half]]
            if Metric(metric).share:  # the interval of a few wild seeds may leave what can be
                ends = [[min(half, found.mean)], [min(half, 1 - found.mean)]]
            axes.errorbar(
                found.mean, place, xerr=ends, fmt="o", ms=5, color=color, capsize=3, label=label if row == 0 else None
            )
    axes.set_yticks(range(len(settings)), names)
    axes.invert_yaxis()
    if Metric(next(iter(metrics.values()))).share:
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -0.01), min(high, 1 + 0.02 * (1 - low)))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("accuracy (mean, 95 % interval, each seed)")
    above(axes)
    tidy(axes)


def above(axes: Axes, columns: int = 2) -> None:
    """The legend over the axes, where it covers nothing."""
    axes.legend(
        frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, borderaxespad=0.2
    )


def over_rates(axes: Axes, lines: dict[str, Sequence[Setting]], metric: str) -> None:
    """A metric's mean against the learning rate, a line for each group of settings, every seed a small point."""
    rates: set[float] = set()
    for index, (label, settings) in enumerate(lines.items()):
        points = sorted(
            ((float(str(one.runs[0].config["optimizer.lr"])), one) for one in settings if one.n),
            key=lambda pair: pair[0],
        )
        xs, means = [rate for rate, _ in points], [of(one, metric) for _, one in points]
        rates |= set(xs)
        color = COLORS[index % len(COLORS)]
        axes.plot(
            xs, [found.mean for found in means if found], MARKERS[index] + "-", ms=4.5, lw=1.6, color=color, label=label
        )
        for rate, one in points:
            values = list(by_seed(one, metric).values())
            axes.plot([rate] * len(values), values, ".", ms=3, color=color, alpha=0.4)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    tidy(axes)


def plane(axes: Axes, run: Run) -> None:
    """What the network of a run on points says everywhere, and the points that it was trained on."""
    from gradlab.analysis.boundary import draw_plane
    from gradlab.config import choice
    from gradlab.trained.network import open_trained

    assert run.folder is not None
    trained = open_trained(RunFolder(run.folder).checkpoints / "best", "cpu", [])
    splits = choice("data", trained.config["data"]).load()
    draw_plane(axes, trained.model, trained.preparation, splits.train, splits.train.images.reshape(-1, 2).astype(float))
    axes.set_xticks([])
    axes.set_yticks([])
