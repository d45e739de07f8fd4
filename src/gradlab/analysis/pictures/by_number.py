"""The final metric against a swept number: a line for each group, a band over seeds, red crosses where it diverged."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.analysis.grouping import Grouped, Setting, is_scattered, short, shown
from gradlab.analysis.pictures.style import (
    GREY,
    RED,
    SEQUENCE,
    Look,
    figure,
    label_lines,
    metric_axis,
    number_axis,
    plain,
    tidy,
)

MOST_VALUES = 8


@dataclass(frozen=True)
class Line:
    """One line: its name, look, and the setting at each value of the number."""

    name: str
    color: object
    style: str
    marker: str
    points: Sequence[tuple[float, Setting]]


def lines_of(grouped: Grouped, key: str, look: Look) -> tuple[list[Line], str]:
    """The lines over ``key``, and what must be said of them.

    One for each group. A second number has a line for each of its values where there is one group and few values;
    otherwise a line shows, at each value of ``key``, the best of the settings that have it.
    """
    rest = [other for other in grouped.numbers if other != key]
    if len(rest) == 1 and len(grouped.groups) == 1:
        values = sorted({setting.values[rest[0]] for setting in grouped.settings if rest[0] in setting.values}, key=str)
        numbers = [value for value in values if isinstance(value, int | float)]
        if len(numbers) == len(values) <= MOST_VALUES:
            colors = mpl.colormaps[SEQUENCE]
            lines = []
            for index, value in enumerate(sorted(numbers)):
                members = [setting for setting in grouped.settings if setting.values.get(rest[0]) == value]
                color = colors(0.9 * index / max(len(numbers) - 1, 1))
                lines.append(Line(f"{short(rest[0])}={shown(value)}", color, "-", "o", _points(grouped, members, key)))
            return lines, ""
    lines = []
    for group in grouped.groups:
        members = [setting for setting in grouped.settings if grouped.group_of(setting) == group]
        points = _points(grouped, members, key)
        if points:
            lines.append(Line(group, look.color(group), look.line(group), look.marker(group), points))
    names = ", ".join(short(other) for other in rest)
    note = f"at each value the best over {names}" if rest else ""
    if rest and any(
        is_scattered([s for s in grouped.settings if grouped.group_of(s) == line.name], key) for line in lines
    ):
        lines = [dataclasses.replace(line, style="") for line in lines]
        note = f"no line: {names} differs from point to point, too"
    return lines, note


def _points(grouped: Grouped, members: Sequence[Setting], key: str) -> list[tuple[float, Setting]]:
    """The setting at each value of ``key``: the best by its mean of those that did not diverge, if there are several."""
    found: dict[float, list[Setting]] = {}
    for setting in members:
        value = setting.values.get(key)
        if isinstance(value, int | float) and setting.ended:
            found.setdefault(value, []).append(setting)
    gain = grouped.metric.gain

    def merit(setting: Setting) -> tuple[bool, float]:
        return (setting.n > 0, gain(setting.mean) if setting.n else 0.0)

    return sorted(((value, max(several, key=merit)) for value, several in found.items()), key=lambda pair: pair[0])


def by_number(grouped: Grouped, key: str, look: Look, best: Setting | None) -> Figure:
    """The metric against ``key``; below it, a lane for each line with a mark at each value where it diverged or was stopped."""
    lines, note = lines_of(grouped, key, look)
    lanes = [line for line in lines if any(setting.diverged or setting.stopped for _, setting in line.points)]
    lane_height = 0.24 * len(lanes) + 0.1
    drawn = figure(8.4, 4.6 + (lane_height if lanes else 0))
    if lanes:
        axes, below = drawn.subplots(2, 1, sharex=True, height_ratios=[4.2, lane_height])
    else:
        axes, below = drawn.subplots(), None
    values = sorted({value for line in lines for value, _ in line.points})
    labels, seen = [], []
    for line in lines:
        alive = [(value, setting) for value, setting in line.points if setting.n]
        xs = [value for value, _ in alive]
        means = [setting.mean for _, setting in alive]
        if not alive:
            continue
        lows = [min(setting.by_seed.values()) for _, setting in alive]
        highs = [max(setting.by_seed.values()) for _, setting in alive]
        seen += lows + highs
        if line.style:
            axes.fill_between(xs, lows, highs, color=line.color, alpha=0.16, lw=0)
        axes.plot(xs, means, color=line.color, ls=line.style, marker=line.marker, ms=4.5, lw=1.8)
        for value, setting in alive:
            axes.plot([value] * setting.n, list(setting.by_seed.values()), ".", color=line.color, ms=3, alpha=0.5)
        labels.append((plain(line.name), line.color, xs[-1], means[-1]))
    if best is not None and isinstance(best.values.get(key), int | float):
        axes.plot(best.values[key], best.mean, "o", ms=13, mfc="none", mec="#222222", mew=1.2, zorder=5, clip_on=False)
    if not seen:
        axes.text(0.5, 0.5, "no run has finished", ha="center", va="center", color=RED, transform=axes.transAxes)
    number_axis(axes, key, values)
    metric_axis(axes, grouped.metric, seen)
    tidy(axes)
    if len(lines) > 1:
        label_lines(axes, labels)  # type: ignore[arg-type]
    if note:
        axes.set_title(plain(note), fontsize=9, loc="left", color="#555555")
    if below is not None:
        _lanes(below, lanes)
        below.set_xlabel(axes.get_xlabel())
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
    return drawn


def _lanes(axes: Axes, lanes: Sequence[Line]) -> None:
    """Where each line's runs diverged or were stopped; a small mark and a count where only some of them did."""
    for row, line in enumerate(lanes):
        for value, setting in line.points:
            for count, mark, color in ((setting.diverged, "x", RED), (setting.stopped, "|", GREY)):
                if not count:
                    continue
                whole = count == len(setting.runs)
                axes.plot(value, row, mark, color=color, ms=8 if whole else 5, mew=2.2 if whole else 1.4)
                if not whole:
                    axes.annotate(
                        f"{count} of {len(setting.runs)}", (value, row), xytext=(6, 0 if mark == "x" else -5), color=color,
                        textcoords="offset points", va="center", fontsize=7.5,
                    )  # fmt: skip
    settings = [setting for line in lanes for _, setting in line.points]
    diverged, stopped = any(s.diverged for s in settings), any(s.stopped for s in settings)
    what = " · ".join([*(["diverged ×"] if diverged and stopped else ["diverged"] if diverged else []),
                       *(["stopped early |"] if stopped else [])])  # fmt: skip
    shade = RED if diverged and not stopped else GREY
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    names = [plain(line.name) for line in lanes]
    alone = len(lanes) == 1 and not names[0]
    axes.set_yticks(range(len(lanes)), [what] if alone else names, fontsize=8)
    if not alone:
        axes.set_title(what, fontsize=9, loc="left", color=shade, pad=2)
        for tick, line in zip(axes.get_yticklabels(), lanes, strict=True):
            tick.set_color(line.color)  # type: ignore[arg-type]
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25, lw=0.6)
