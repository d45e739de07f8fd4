"""How far the metric varies over seeds, and over settings: two pictures of the same runs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.analysis.grouping import Grouped, Setting, lost
from gradlab.analysis.pictures.style import Look, cut, figure, group_name, metric_axis, plain, tidy
from gradlab.analysis.ranking import Ranking

MOST_SETTINGS = 25
NEAR = 0.1
"""Of the metric's best: how far down the axis of the intervals goes, for a share."""


def intervals(grouped: Grouped, look: Look, ranking: Ranking) -> Figure | None:
    """The best settings with their 95 % intervals and each seed's value; filled where not worse beyond doubt."""
    if ranking.best is None:
        return None
    rivals = {id(rival.setting) for rival in ranking.rivals}
    ranked = sorted([ranking.best, *(o.setting for o in ranking.others)], key=lambda s: -grouped.metric.gain(s.mean))
    few = ranked[:MOST_SETTINGS]
    drawn = figure(8.2, 0.27 * len(few) + 1.3)
    axes = drawn.subplots()
    ends: list[float] = []
    for row, setting in enumerate(few):
        found, color = setting.estimate, look.color(grouped.group_of(setting))
        assert found is not None
        if math.isfinite(found.half):
            axes.plot([found.low, found.high], [row, row], color=color, lw=2, alpha=0.7, solid_capstyle="butt")
        axes.plot(list(setting.by_seed.values()), [row] * setting.n, "|", color=color, ms=9, mew=1.2, alpha=0.8)
        open_dot = setting is not ranking.best and id(setting) not in rivals
        axes.plot(found.mean, row, "o", color=color, mfc="white" if open_dot else color, ms=6)
        ends += [*setting.by_seed.values(), found.mean]
        ends += [found.low, found.high] if math.isfinite(found.half) and setting is ranking.best else []
    ends = _near(ends, grouped, ranking.best)
    metric_axis(axes, grouped.metric, ends, "x", f"{grouped.metric.words}: mean, 95% interval, each seed (ticks)")
    low, high = axes.get_xlim()
    for row, setting in enumerate(few):
        if not low <= setting.mean <= high:
            side = setting.mean < low
            axes.annotate(
                f"{'◀ ' if side else ''}{grouped.metric.write(setting.mean)}{'' if side else ' ▶'}", (low if side else high, row),
                xytext=(4 if side else -4, 0), textcoords="offset points", ha="left" if side else "right", va="center", fontsize=8,
                color=look.color(grouped.group_of(setting)), bbox={"fc": "white", "ec": "none", "pad": 1},
            )  # fmt: skip
    axes.set_yticks(range(len(few)), [_label(setting) for setting in few], fontsize=8)
    axes.set_ylim(len(few) - 0.5, -0.5)
    tidy(axes)
    if len(ranked) > len(few):
        axes.set_title(f"the {len(few)} best of {len(ranked)} settings", fontsize=9, loc="left", color="#555555")
    handles = [
        Line2D([], [], color="#222222", marker="o", ls="", label="best, or not distinguishable from it"),
        Line2D([], [], color="#222222", marker="o", mfc="white", ls="", label="ruled out as the best"),
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return drawn


def _label(setting: Setting) -> str:
    return plain(cut(setting.name, 52) + (f" ({lost(setting)})" if lost(setting) else ""))


def _near(ends: Sequence[float], grouped: Grouped, best: Setting) -> list[float]:
    """Only what is near the best: one setting at chance would press all others into a line."""
    spread = NEAR if grouped.metric.share else max(abs(best.mean), 1e-9)
    kept = [value for value in ends if abs(value - best.mean) <= spread]
    if grouped.metric.share:
        kept += [max(best.mean - spread, min(ends))] if min(ends) < best.mean - spread else []
        kept = [min(value, 1.0) for value in kept]
    return kept


def seeds_and_settings(grouped: Grouped, look: Look) -> tuple[Figure, str] | None:
    """Every seed of every setting, in order of the mean; and in words which of the two varies more."""
    alive = [setting for setting in grouped.settings if setting.n]
    if len(alive) < 2 or max(setting.n for setting in alive) < 2:
        return None
    ranked = sorted(alive, key=lambda setting: grouped.metric.gain(setting.mean))
    drawn = figure(8.2, 4.2)
    axes = drawn.subplots()
    values: list[float] = []
    for group in grouped.groups:
        found = [(rank, s) for rank, s in enumerate(ranked, 1) if grouped.group_of(s) == group]
        xs = [rank for rank, setting in found for _ in setting.by_seed]
        ys = [value for _, setting in found for value in setting.by_seed.values()]
        if xs:
            axes.plot(
                xs,
                ys,
                look.marker(group),
                color=look.color(group),
                ms=4.5,
                alpha=0.7,
                mew=0,
                label=group_name(grouped, group),
            )
        values += ys
    axes.plot(
        range(1, len(ranked) + 1),
        [s.mean for s in ranked],
        "_",
        color="#222222",
        ms=min(14, 300 / len(ranked)),
        mew=1.2,
    )
    axes.set_xlabel("settings, from worst to best mean (bar); a point is a seed")
    axes.set_xlim(0.3, len(ranked) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    metric_axis(axes, grouped.metric, values)
    tidy(axes)
    if len(grouped.groups) > 1:
        drawn.legend(loc="outside right upper", frameon=False, fontsize=9)
    return drawn, _in_words(grouped, alive)


def _in_words(grouped: Grouped, alive: Sequence[Setting]) -> str:
    repeated = [setting for setting in alive if setting.n >= 2 and setting.estimate]
    within = math.sqrt(float(np.mean([setting.estimate.std**2 for setting in repeated if setting.estimate])))
    write = grouped.metric.write_difference
    over = float(np.std([setting.mean for setting in alive], ddof=1))
    top = sorted(alive, key=lambda setting: -grouped.metric.gain(setting.mean))[: max(2, len(alive) // 4)]
    over_top = float(np.std([setting.mean for setting in top], ddof=1))
    near = [setting.estimate.std**2 for setting in top if setting.estimate and setting.n >= 2]
    said = (
        f"The means of the {len(alive)} settings have a standard deviation of {write(over)}, the seeds of one setting "
        f"{write(within)} (root mean square)"
    )
    if len(alive) >= 8 and near:
        said += f"; among the best quarter it is {write(over_top)} over settings and {write(math.sqrt(float(np.mean(near))))} over seeds"
    return f"{said}."
