"""Three swept keys or more: parallel coordinates, and the marginal of each key."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gradlab.analysis.edges import is_logarithmic
from gradlab.analysis.grouping import Grouped, Setting, is_scattered, short, shown
from gradlab.analysis.pictures.style import (
    GREY,
    RED,
    SEQUENCE,
    Look,
    cut,
    figure,
    metric_axis,
    number_axis,
    plain,
    tidy,
)

MOST_TICKS = 10


def _axis_values(grouped: Grouped, key: str) -> tuple[dict[object, float], list[tuple[float, str]]]:
    """Where each value of a key stands on an axis from 0 to 1, and the ticks of that axis."""
    values = list(dict.fromkeys(setting.values.get(key) for setting in grouped.settings))
    if key in grouped.numbers:
        numbers = sorted({value for value in values if isinstance(value, int | float)})
        logarithmic = is_logarithmic(numbers, key)
        lowest = min((value for value in numbers if value > 0), default=1.0)
        # Zero has no logarithm: it stands a step below the rest.
        scaled = {
            value: float(np.log10(value if value > 0 else lowest / 10)) if logarithmic else float(value)
            for value in numbers
        }
        low, high = min(scaled.values()), max(scaled.values())
        places: dict[object, float] = {value: (place - low) / (high - low or 1) for value, place in scaled.items()}
        missing = [value for value in values if value not in places]
        places |= dict.fromkeys(missing, -0.08)
        ticks = (
            numbers if len(numbers) <= MOST_TICKS else [numbers[round(i * (len(numbers) - 1) / 5)] for i in range(6)]
        )
        return places, [(places[value], shown(value)) for value in ticks] + [(-0.08, "none") for _ in missing[:1]]
    names = sorted(values, key=lambda value: (value is None, shown(value)))
    places = {name: index / max(len(names) - 1, 1) for index, name in enumerate(names)}
    return places, [(places[name], cut(shown(name), 16)) for name in names[:: max(1, len(names) // 12)]]


def parallel(grouped: Grouped) -> Figure:
    """A line for each setting through its values to its mean, the better the brighter and the more on top."""
    keys = grouped.swept
    means = np.array([setting.mean for setting in grouped.settings])
    low, high = (float(np.nanmin(means)), float(np.nanmax(means))) if np.isfinite(means).any() else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1e-9)
    drawn = figure(max(6.5, 1.75 * (len(keys) + 1) + 1), 4.6)
    axes = drawn.subplots()
    scales = [_axis_values(grouped, key) for key in keys]
    gain = grouped.metric.gain
    for setting in sorted(grouped.settings, key=lambda s: gain(s.mean) if s.n else -np.inf):
        ys = [places[setting.values.get(key)] for key, (places, _) in zip(keys, scales, strict=True)]
        if setting.n:
            end = (setting.mean - low) / (norm.vmax - low)  # type: ignore[operator]
            color = colormaps[SEQUENCE](0.95 * (norm(setting.mean) if gain(1) > 0 else 1 - norm(setting.mean)))
            axes.plot([*range(len(keys)), len(keys)], [*ys, end], color=color, lw=1.5, alpha=0.85)
        elif setting.diverged:
            axes.plot(range(len(keys)), ys, color=RED, lw=0.9, ls=":", alpha=0.7)
            axes.plot(len(keys) - 1, ys[-1], "x", color=RED, ms=6, mew=1.6)
        elif setting.stopped:
            axes.plot(range(len(keys)), ys, color=GREY, lw=0.8, ls=":", alpha=0.6)
            axes.plot(len(keys) - 1, ys[-1], "|", color=GREY, ms=7, mew=1.6)
    write = grouped.metric.write
    final = [(fraction, write(low + fraction * (high - low))) for fraction in (0, 0.25, 0.5, 0.75, 1)]
    for place, ticks in enumerate([*(ticks for _, ticks in scales), final]):
        axes.axvline(place, color="#222222", lw=0.8)
        for y, text in ticks:
            axes.text(
                place + 0.03,
                y,
                plain(text),
                fontsize=8,
                va="center",
                bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
            )
    axes.set_xticks(range(len(keys) + 1), [*(plain(short(key)) for key in keys), f"mean\n{grouped.metric.words}"])
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(keys) + 0.45)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return drawn


def marginals(grouped: Grouped, look: Look) -> Figure:
    """For each swept key: every setting's mean against its value, and the best at each value as a line."""
    keys = grouped.swept
    columns = min(len(keys), 3)
    rows = -(-len(keys) // columns)
    drawn = figure(3.5 * columns + 0.6, 2.9 * rows + 0.3)
    panels = list(drawn.subplots(rows, columns, sharey=True, squeeze=False).flat)
    alive = [setting for setting in grouped.settings if setting.n]
    for axes, key in zip(panels, keys, strict=False):
        _marginal(axes, grouped, key, alive, look)
    for index, axes in enumerate(panels[: len(keys)]):
        metric_axis(axes, grouped.metric, [setting.mean for setting in alive], label="" if index % columns else None)
        tidy(axes)
    for axes in panels[len(keys) :]:
        axes.axis("off")
    return drawn


def _marginal(axes: Axes, grouped: Grouped, key: str, alive: list[Setting], look: Look) -> None:
    numeric = key in grouped.numbers
    shown_settings = [s for s in alive if not numeric or isinstance(s.values.get(key), int | float)]
    if not shown_settings:
        return
    names = sorted({shown(setting.values.get(key)) for setting in shown_settings})
    tops: dict[float, float] = {}
    for setting in shown_settings:
        value = setting.values.get(key)
        x = float(value) if numeric else float(names.index(shown(value)))  # type: ignore[arg-type]
        group = grouped.group_of(setting)
        axes.plot(x, setting.mean, look.marker(group), color=look.color(group), ms=4, alpha=0.6, mew=0)
        better = max if grouped.metric.higher_is_better else min
        tops[x] = better(tops.get(x, setting.mean), setting.mean)
    if numeric:
        if not is_scattered(shown_settings, key):
            axes.plot(sorted(tops), [tops[x] for x in sorted(tops)], color="#222222", lw=1.2, zorder=1)
        number_axis(axes, key, list(tops))
        axes.tick_params(axis="x", labelsize=8)
    else:
        for x, top in tops.items():
            axes.plot([x - 0.25, x + 0.25], [top, top], color="#222222", lw=1.2)
        axes.set_xticks(
            range(len(names)),
            [plain(cut(name, 14)) for name in names],
            fontsize=8,
            rotation=30 if len(names) > 3 else 0,
        )
        axes.set_xlabel(plain(key))
