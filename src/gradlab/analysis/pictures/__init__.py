"""The pictures of a comparison, as PNG files in ``plots/``; which of them are drawn depends on what was swept."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from gradlab.analysis.grouping import Grouped
from gradlab.analysis.pictures.by_number import by_number
from gradlab.analysis.pictures.losses import losses
from gradlab.analysis.pictures.many_numbers import marginals, parallel
from gradlab.analysis.pictures.scatter import time_against_metric, validation_against_test
from gradlab.analysis.pictures.spread import intervals, seeds_and_settings
from gradlab.analysis.pictures.style import DPI, Look
from gradlab.analysis.pictures.two_numbers import heat_map
from gradlab.analysis.ranking import Ranking


@dataclass(frozen=True)
class Picture:
    """One picture.

    path: the PNG.
    title: what it shows.
    caption: how to read it.
    wide: whether it needs the whole width of a page.
    """

    path: Path
    title: str
    caption: str
    wide: bool


def draw_all(grouped: Grouped, ranking: Ranking, folder: Path) -> list[Picture]:
    """Draw into ``folder`` whatever these settings can show."""
    folder.mkdir(parents=True, exist_ok=True)
    look = Look(grouped.groups)
    best = ranking.best
    ranked = ([best] if best else []) + [other.setting for other in ranking.others]
    words = grouped.metric.words
    drawn: list[Picture] = []
    stopped = any(setting.stopped for setting in grouped.settings)
    end = " A grey bar marks what was stopped early." if stopped else ""

    def keep(name: str, title: str, caption: str, figure: Figure | None) -> None:
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=DPI)
            wide = name == "metric_by_number" or figure.get_figwidth() > 9
            drawn.append(Picture(path, title[0].upper() + title[1:], caption, wide))

    key = grouped.numbers[0] if grouped.numbers else None
    named = "learning rate" if key == "optimizer.lr" else key
    if key is not None:
        keep(
            "metric_by_number",
            f"{words} against {named}",
            "Lines are means over seeds, bands go from the lowest to the highest seed, dots are seeds, and the ring is the "
            "best setting. Red crosses below mark where all seeds diverged, small ones where some did." + end,
            by_number(grouped, key, look, best),
        )
    keep(
        "intervals",
        f"{words} of the best settings",
        "Bars are 95% confidence intervals of the mean over seeds (Student's t); ticks are the seeds.",
        intervals(grouped, look, ranking),
    )
    keep(
        "losses",
        f"Training loss against step, by {named}" if key else "Training loss against step",
        "One seed of each setting. A rate too low crawls; one too high jumps about, stalls, or diverges (red "
        "cross). What is over a hundred times the median loss is cut off." + end,
        losses(grouped, key, look, ranked or list(grouped.settings)),
    )
    if len(grouped.numbers) == 2:
        keep(
            "heat_map",
            f"{words} over both numbers",
            "Means over seeds; the best is outlined, a red cross diverged, * lost some seeds." + end,
            heat_map(grouped, best, look),
        )
    if len(grouped.swept) >= 3 and ranked:
        keep(
            "parallel",
            "Every setting through its values",
            "A line is a setting; the brighter, the better. Dotted red ones diverged."
            + (" Dotted grey ones were stopped early." if stopped else ""),
            parallel(grouped),
        )
        keep(
            "marginals",
            "Each swept key by itself",
            "Points are settings; a black line joins the best setting at each value, where values were tried more than once.",
            marginals(grouped, look),
        )
    if best is not None:
        keep(
            "validation_test",
            "Validation against test",
            "Every finished run. Settings are chosen by validation alone; this only shows how far that carries over.",
            validation_against_test(grouped, look, best),
        )
        keep(
            "time",
            f"Time against {words}",
            "Wall time of runs that may have shared the machine with others, so only rough.",
            time_against_metric(grouped, look, ranked),
        )
        varied = seeds_and_settings(grouped, look)
        if varied:
            keep("spread", "Variation over seeds and over settings", varied[1], varied[0])
    return drawn
