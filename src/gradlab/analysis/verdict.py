"""From the runs of a sweep to its verdict: ``report.html``, ``plots/`` and ``summary.json`` in the sweep's folder."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.analysis.edges import edges
from gradlab.analysis.grouping import Grouped, Setting, group
from gradlab.analysis.metric import DEFAULT, Metric
from gradlab.analysis.ranking import Ranking, rank
from gradlab.analysis.sentences import TEST, Verdict, conclude_in_words, estimate_on_test
from gradlab.analysis.sources import Source, read_sweep
from gradlab.analysis.table import verdicts
from gradlab.tracking.folder import write_atomically

REPORT, SUMMARY, PLOTS = "report.html", "summary.json", "plots"


@dataclass(frozen=True)
class Judged:
    """Runs, their settings, and what is said of them."""

    source: Source
    grouped: Grouped
    ranking: Ranking
    verdict: Verdict


@dataclass(frozen=True)
class Conclusion:
    """What a sweep came to.

    lines: for the terminal: the three sentences, then what must be known beside them.
    metrics: for the sweep's parent run in MLflow, all finite; accuracies in [0, 1].
    tags: for the same.
    report: the page.
    """

    lines: list[str]
    metrics: dict[str, float]
    tags: dict[str, str]
    report: Path


def conclude(sweep_folder: Path, metric: str = DEFAULT) -> Conclusion:
    """Judge the sweep in ``sweep_folder``, finished or not, and write what is said into that folder.

    Reads the sweep's and its runs' own files alone. May be called again, as when more points have finished.

    Raises:
        ConfigError: the folder has no readable sweep.json.
    """
    folder = sweep_folder.absolute()
    judged = judge(read_sweep(folder), Metric(metric))
    write_report(judged, folder / REPORT, folder / PLOTS)
    write_atomically(folder / SUMMARY, json.dumps(summary(judged), indent=2) + "\n")
    lines = [*judged.verdict.sentences, *judged.verdict.warnings]
    return Conclusion(lines, metrics_of(judged), tags_of(judged), folder / REPORT)


def judge(source: Source, metric: Metric) -> Judged:
    """Group the runs, rank the settings and put it into words."""
    grouped = group(source.runs, metric)
    ranking = rank(grouped)
    return Judged(source, grouped, ranking, conclude_in_words(source, grouped, ranking))


def write_report(judged: Judged, path: Path, plots: Path) -> None:
    """Draw the pictures into ``plots`` and write the page that holds them all."""
    from gradlab.analysis.pictures import draw_all
    from gradlab.analysis.report import report

    pictures = draw_all(judged.grouped, judged.ranking, plots)
    write_atomically(path, report(judged.source, judged.grouped, judged.ranking, judged.verdict, pictures, path.parent))


def metrics_of(judged: Judged) -> dict[str, float]:
    """Numbers for the parent run: of the best setting, and how many points came to what."""
    grouped, best = judged.grouped, judged.ranking.best
    runs = judged.source.runs
    found: dict[str, float] = {
        "sweep/points": len(runs),
        "sweep/settings": len(grouped.settings),
        **{f"sweep/{s}": sum(run.status == s for run in runs) for s in ("finished", "diverged", "pruned", "failed")},
    }
    if best is not None and best.estimate is not None:
        name = grouped.metric.name
        found |= {
            name: best.mean,
            f"{name}_ci95": best.estimate.half,
            f"{name}_std": best.estimate.std,
            "best/n": best.n,
        }
        found["best/not_distinguishable"] = len(judged.ranking.rivals)
        test = estimate_on_test(best)
        if test is not None:
            found |= {TEST: test.mean, f"{TEST}_ci95": test.half}
        found |= {f"best/{key}": float(best.values[key]) for key in grouped.numbers if key in best.values}  # type: ignore[arg-type]
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def tags_of(judged: Judged) -> dict[str, str]:
    """Texts for the parent run; the note is what MLflow shows as its description."""
    best, verdict = judged.ranking.best, judged.verdict
    note = "\n".join(
        [*(f"{i}. {text}" for i, text in enumerate(verdict.sentences, 1)), "", *(f"* {w}" for w in verdict.warnings)]
    )
    tags = {"gradlab.verdict": " ".join(verdict.sentences), "mlflow.note.content": f"**Verdict**\n\n{note.strip()}"}
    if best is not None:
        tags["gradlab.best"] = best.name
    return {key: value[:5000] for key, value in tags.items()}


def summary(judged: Judged) -> dict[str, Any]:
    """Everything that the report says in numbers, for other programs; null where there is no number."""
    grouped, ranking = judged.grouped, judged.ranking
    against = {id(other.setting): other for other in ranking.others}

    def entry(setting: Setting, said: str) -> dict[str, Any]:
        test, other = estimate_on_test(setting), against.get(id(setting))
        return {
            "name": setting.name,
            "values": dict(setting.values),
            "verdict": said,
            "n": setting.n,
            "statuses": {
                run_status: setting.count(run_status) for run_status in sorted({r.status for r in setting.runs})
            },
            "by_seed": {str(seed): value for seed, value in setting.by_seed.items()},
            "mean": setting.mean,
            "std": setting.estimate.std if setting.estimate else None,
            "ci95_half": setting.estimate.half if setting.estimate else None,
            "test_accuracy": {"mean": test.mean, "ci95_half": test.half, "n": test.n} if test else None,
            "seconds": setting.seconds,
            "best_minus_this": vars(other.comparison) | {"adjusted_p": other.adjusted_p} if other else None,
        }

    result = {
        "version": 1,
        "sweep": judged.source.identity,
        "metric": grouped.metric.name,
        "swept": list(grouped.swept),
        "best": ranking.best.name if ranking.best else None,
        "sentences": judged.verdict.sentences,
        "warnings": list(judged.verdict.warnings),
        "edges": [
            {**vars(edge), "tried": list(edge.tried)}
            for edge in (edges(grouped, ranking.best, judged.source.space) if ranking.best else [])
        ],
        "optimism": ranking.optimism,
        "resolution": grouped.resolution,
        "settings": [entry(setting, said) for setting, said in verdicts(grouped, ranking)],
    }
    return dict(_without_nan(result))


def _without_nan(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nan(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_without_nan(child) for child in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
