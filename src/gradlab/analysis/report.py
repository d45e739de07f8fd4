"""``report.html``: the verdict, its tables and pictures, and how they were computed."""

import math
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from gradlab.analysis import page
from gradlab.analysis.grouping import Grouped
from gradlab.analysis.pictures import Picture
from gradlab.analysis.ranking import Ranking
from gradlab.analysis.records import Run
from gradlab.analysis.sentences import Verdict
from gradlab.analysis.sources import Source
from gradlab.analysis.table import of_runs, of_settings, verdicts


def report(
    source: Source, grouped: Grouped, ranking: Ranking, verdict: Verdict, pictures: Sequence[Picture], base: Path | None
) -> str:
    """The whole page; ``base`` is the folder that it will lie in, for links to the runs."""
    everything = [run for s in grouped.settings for run in s.runs] + list(grouped.unplaced)
    counts = {
        status: sum(run.status == status for run in everything) for status in sorted({r.status for r in everything})
    }
    counted = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    said = verdicts(grouped, ranking)
    classes = ["best" if setting is ranking.best else "" for setting, _ in said]
    links = [_link(run, base) for run in everything]
    parts = [
        f"<h1>{escape(source.title)}</h1>",
        f'<p class="soft">{len(grouped.settings):,} settings, {len(everything):,} runs: {escape(counted)}.</p>',
        page.items(verdict.sentences, "ol", "verdict"),
        page.items(verdict.warnings, "ul", "warnings") if verdict.warnings else "",
        "<h2>Settings</h2>",
        page.table(of_settings(grouped, ranking), classes=classes),
        "<h2>Pictures</h2>",
        '<div class="figures">',
        *(page.image(p.path, p.title, p.caption, p.wide) for p in pictures),
        "</div>",
        "<h2>Runs</h2>",
        page.table(of_runs(grouped), links=links),
        "<h2>How this was computed</h2>",
        *(f"<p>{escape(text)}</p>" for text in _method(grouped, ranking)),
        "<h2>Made with</h2>",
        page.definitions(_made_with(source, everything)),
    ]
    if source.command:
        parts += ["<h2>To do it again</h2>", f"<pre>{escape(_command(source.command))}</pre>"]
    return page.page(f"{source.title}: verdict", "\n".join(part for part in parts if part))


def _link(run: Run, base: Path | None) -> str | None:
    if run.mlflow_address:
        return run.mlflow_address
    return page.relative_link(run.folder, base) if run.folder else None


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", *words] if words[0].endswith(".py") else words)


def _method(grouped: Grouped, ranking: Ranking) -> list[str]:
    metric = grouped.metric
    better = "higher" if metric.higher_is_better else "lower"
    comparisons = sum(other.setting.n >= 2 for other in ranking.others)
    texts = [
        f"Settings are compared by {metric.name} ({better} is better), measured on the validation images at the checkpoint that "
        "validation chose. The test images had no part in any choice: each run read them once, at its end, with that checkpoint.",
        "Seeds are repetitions of a setting. ± is half the 95% confidence interval of the mean by Student's t with n - 1 degrees "
        "of freedom; std is the standard deviation over seeds. Both are about the randomness of training alone: all seeds share "
        "one split of the images, and another split or new images would vary more.",
        "The best setting is the one with the best mean among those with two seeds or more of which none diverged or was stopped as hopeless; if every "
        "setting lost runs, among those that lost the smallest share. Another setting is ruled out as the best where the two-sided "
        f"p-value of its comparison with the best, times the number of comparisons ({comparisons}), is below 0.05: a paired t-test over "
        "shared seeds, or Welch's test where fewer than two are shared, and then only where the intervals do not overlap. All "
        "others are not distinguishable: the truly best setting is among them and the best with 95% confidence (multiple "
        "comparisons with the best, Hsu 1984). The p in the table is the adjusted one. Diverged runs have no accuracy; they are never counted as zero.",
    ]
    if any(setting.stopped for setting in grouped.settings):
        texts.append(
            "Runs that are pruned were stopped because their setting's early validation accuracy, the mean over its seeds, was "
            "not among the best of those that had come as far; the note of each run says where. An early accuracy is no final "
            "one: a low learning rate is slow, and a schedule has not yet lowered a high one. So it is in no mean and no "
            "ranking, and the pruned settings are neither ruled out nor worse beyond doubt."
        )
    if ranking.best is not None and math.isfinite(ranking.optimism) and ranking.rivals:
        texts.append(
            f"The highest of {1 + len(ranking.rivals)} settings looks better than it is. If all of them were equally good, its mean "
            f"would be about {metric.write_difference(ranking.optimism)} too high by the luck of its seeds. Its test accuracy is free "
            "of this luck as far as that comes from the validation images; new seeds are the only full cure."
        )
    if grouped.resolution and any(s.estimate and s.estimate.floored for s in grouped.settings):
        texts.append(
            f"Some settings have seeds that agree to the last image. Their spread is taken to be that of rounding to "
            f"{metric.write_difference(grouped.resolution)}, the smallest difference between any two runs here, and not zero."
        )
    return texts


def _made_with(source: Source, runs: Sequence[Run]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    if source.identity:
        pairs.append(("sweep", source.identity))
    for name, key in (("device", "device"), ("images (SHA-256)", "data_sha256")):
        pairs += [(name, text) for text in _distinct(run.about.get(key) for run in runs)]
    for versions in _distinct(_joined(run.about.get("versions")) for run in runs)[:3]:
        pairs.append(("versions", versions))
    for commit in _distinct(_joined(run.about.get("source")) for run in runs)[:3]:
        pairs.append(("source", commit))
    ids = [run.mlflow_run_id for run in runs if run.mlflow_run_id]
    if ids:
        pairs.append(("MLflow runs", f"{len(ids):,}, the first {ids[0]}"))
    return pairs


def _joined(found: Any) -> str | None:
    return ", ".join(f"{key} {value}" for key, value in found.items()) if isinstance(found, dict) and found else None


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))
