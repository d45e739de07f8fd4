"""The picture of a search: the loss against the learning rate, as it was and smoothed, and what is suggested."""

import textwrap
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gradlab.analysis.pictures.style import DPI, GREY, INK, RED, tidy
from gradlab.finder.search import Found

RAW, SMOOTH, SUGGESTED = "#b9cfe4", "#1f4e79", "#c26a00"


def draw(found: Found, path: Path) -> None:
    """Draw ``figure`` into the PNG file ``path``."""
    figure(found).savefig(path, format="png", dpi=DPI)


def figure(found: Found) -> Figure:
    """Every ramp's losses, their smoothed mean, where that is lowest and where it climbs, the suggestion, the configured rate."""
    reading = found.reading
    rates, marked = reading.rates, reading.points
    drawn = Figure(figsize=(8, 4.6), layout="constrained", facecolor="white")
    axes: Axes = drawn.subplots()
    for number, losses in enumerate(reading.losses):
        label = f"{len(reading.losses)} ramps" if number == 0 else None
        axes.plot(rates, losses, color=RAW, lw=0.6, alpha=0.8, label=label, zorder=1)
    axes.plot(rates, reading.smoothed, color=SMOOTH, lw=2.2, label="smoothed", zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # An explosion would press all the rest into a line.
    top = 2.2 * float(reading.smoothed[0])
    axes.set_ylim(0.7 * float(reading.smoothed.min()), top)
    axes.set_xlim(float(rates[0]), float(rates[-1]))
    _mark(axes, found, marked.lowest, "lowest", "o", "right")
    if marked.climbs is not None:
        _mark(axes, found, marked.climbs, "climbs from", "^", "left")
    if found.suggestion is not None:
        color = GREY if reading.doubt else SUGGESTED
        text = f"suggested {found.suggestion:.3g}" + (" (not sure)" if reading.doubt else "")
        axes.axvline(found.suggestion, color=color, lw=1.8, zorder=2, label=text)
    if rates[0] <= found.configured <= rates[-1]:
        axes.axvline(found.configured, color=INK, lw=1, ls=":", zorder=2, label=f"configured {found.configured:.3g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss of the mini-batch (nats)")
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    tidy(axes)
    axes.set_title(found.setting, fontsize=11, loc="left")
    if reading.doubt:
        doubt = "\n".join(textwrap.wrap(f"Not sure: {reading.doubt}.", 110))
        axes.text(0.0, -0.16, doubt, transform=axes.transAxes, color=RED, fontsize=8.5, va="top")
    axes.legend(frameon=True, edgecolor="none", framealpha=0.85, fontsize=9, loc="lower left")
    return drawn


def _mark(axes: Axes, found: Found, rate: float, label: str, marker: str, side: Literal["left", "right"]) -> None:
    """A point on the smoothed curve, its label below it and to one side: aligned by its ``side`` end."""
    reading = found.reading
    height = float(reading.smoothed[int((reading.rates <= rate * (1 + 1e-9)).sum()) - 1])
    axes.plot([rate], [height], marker, color=SMOOTH, ms=7, mec="white", zorder=4)
    shift = 7 if side == "left" else -7
    axes.annotate(
        f"{label} {rate:.2g}", (rate, height), xytext=(shift, -13), textcoords="offset points", ha=side, fontsize=9,
        color=SMOOTH, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}, zorder=5,
    )  # fmt: skip
