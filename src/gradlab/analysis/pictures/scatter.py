"""Two measures of every run or setting against each other: validation and test, time and metric."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from gradlab.analysis.grouping import Grouped, Setting, shown
from gradlab.analysis.pictures.style import Look, figure, group_name, metric_axis, plain, tidy
from gradlab.analysis.sentences import TEST


def validation_against_test(grouped: Grouped, look: Look, best: Setting | None) -> Figure | None:
    """A point for each finished run; below the diagonal, the test images are harder than the validation images."""
    drawn = figure(7.4, 4.8)
    axes = drawn.subplots()
    xs: list[float] = []
    ys: list[float] = []
    for group in grouped.groups:
        members = [setting for setting in grouped.settings if grouped.group_of(setting) == group]
        pairs = [(grouped.metric.of(run), run.metric(TEST)) for setting in members for run in setting.finished_runs]
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), look.marker(group), color=look.color(group), ms=5, alpha=0.65, mew=0,
                      label=group_name(grouped, group))  # fmt: skip
            xs += [x for x, _ in pairs]
            ys += [y for _, y in pairs]
    if not xs:
        return None
    metric_axis(axes, grouped.metric, xs, "x", f"{grouped.metric.words} of each run")
    low, high = min(ys), max(ys)
    pad = max(0.04 * (high - low), 0.004)
    axes.set_ylim(max(low - pad, -0.01), high + pad)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("test accuracy")
    if grouped.metric.share:
        axes.axline((0.5, 0.5), slope=1, color="#8a8a8a", lw=0.9, ls="--", zorder=0, label="the same on both")
    if best is not None:
        chosen = [(grouped.metric.of(run), run.metric(TEST)) for run in best.finished_runs]
        chosen = [pair for pair in chosen if all(map(math.isfinite, pair))]
        if chosen:
            axes.plot(
                *zip(*chosen, strict=True),
                "o",
                ms=11,
                mfc="none",
                mec="#222222",
                mew=1.2,
                clip_on=False,
                label="the chosen setting",
            )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    tidy(axes)
    drawn.legend(loc="outside right upper", frameon=False, fontsize=9)
    return drawn


def time_against_metric(grouped: Grouped, look: Look, ranked: Sequence[Setting]) -> Figure | None:
    """A point for each setting: its mean seconds of training, and its mean."""
    alive = [setting for setting in grouped.settings if setting.n and math.isfinite(setting.seconds)]
    if len(alive) < 2:
        return None
    drawn = figure(7.2, 4.6)
    axes = drawn.subplots()
    for group in grouped.groups:
        members = [setting for setting in alive if grouped.group_of(setting) == group]
        if members:
            axes.plot([s.seconds for s in members], [s.mean for s in members], look.marker(group), color=look.color(group),
                      ms=6, alpha=0.75, mew=0, label=group_name(grouped, group))  # fmt: skip
    seconds = [setting.seconds for setting in alive]
    if max(seconds) > 20 * min(seconds) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: shown(float(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        pad = 0.1 * (max(seconds) - min(seconds)) or 0.1 * max(seconds)
        axes.set_xlim(min(seconds) - pad, max(seconds) + pad)
    axes.set_xlabel("seconds of training and test, mean over seeds")
    metric_axis(axes, grouped.metric, [setting.mean for setting in alive], label=f"mean {grouped.metric.words}")
    if ranked and ranked[0] in alive:
        _name(axes, ranked[0])
    tidy(axes)
    if len(grouped.groups) > 1:
        drawn.legend(loc="outside right upper", frameon=False, fontsize=9)
    return drawn


def _name(axes: Axes, best: Setting) -> None:
    low, high = axes.get_xlim()
    right = best.seconds > math.sqrt(low * high) if axes.get_xscale() == "log" else best.seconds > (low + high) / 2
    axes.plot(best.seconds, best.mean, "o", ms=13, mfc="none", mec="#222222", mew=1.2, clip_on=False)
    axes.annotate(
        plain(best.name), (best.seconds, best.mean), xytext=(-10 if right else 10, -14), textcoords="offset points",
        ha="right" if right else "left", fontsize=9, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.8},
    )  # fmt: skip
