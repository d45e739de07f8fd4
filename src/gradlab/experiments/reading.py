"""From runs to numbers with intervals, and to words."""

import json
import math
from collections.abc import Sequence

from gradlab.analysis.figures import series
from gradlab.analysis.grouping import Setting, shown, swept_keys
from gradlab.analysis.metric import Metric
from gradlab.analysis.records import Run
from gradlab.analysis.sources import Source
from gradlab.analysis.statistics import Comparison, Estimate, compare, estimate
from gradlab.analysis.verdict import Judged, judge
from gradlab.probe import read_states
from gradlab.tracking.folder import RunFolder

TRAIN_LOSS, TRAIN_ACCURACY, VAL, TEST = "train/loss", "train/accuracy", "best/val_accuracy", "test/accuracy"


def number(run: Run, metric: str) -> float:
    """A finished run's training loss or accuracy in its last epoch, or a final metric; NaN where there is none."""
    if run.status != "finished" or run.folder is None:
        return math.nan
    if metric.startswith("train/"):
        steps, values = series(RunFolder(run.folder).journal, metric)
        epoch = _steps_per_epoch(run)
        last = [value for step, value in zip(steps, values, strict=True) if step > steps[-1] - epoch]
        return sum(last) / len(last) if last else math.nan  # a row alone would be about a mini-batch or two
    return run.metric(metric)


def _steps_per_epoch(run: Run) -> int:
    """How many steps a run made in an epoch."""
    assert run.folder is not None
    if run.config["data.batch_size"] == "full":
        return 1
    images: int = sum(json.loads(RunFolder(run.folder).result.read_text())["class_counts"]["train"].values())
    return math.ceil(images / int(str(run.config["data.batch_size"])))


def by_seed(setting: Setting, metric: str) -> dict[int, float]:
    """The metric of each finished run, by its seed."""
    found = {run.seed or 0: number(run, metric) for run in setting.finished_runs}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def of(setting: Setting, metric: str) -> Estimate | None:
    values = list(by_seed(setting, metric).values())
    return estimate(values) if values else None


def mean(setting: Setting, metric: str) -> float:
    found = of(setting, metric)
    return found.mean if found else math.nan


def written(found: Estimate | None, metric: str) -> str:
    """``72.00% ± 3.10%``, or the mean alone of one seed."""
    if found is None:
        return "–"
    how = Metric(metric)
    half = f" ± {how.write_half(found.half)}" if math.isfinite(found.half) else ""
    return f"{how.write(found.mean)}{half}"


def table(settings: Sequence[Setting], metrics: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, a row to a setting; ``metrics`` are headings with their metric."""
    rows = []
    for setting in settings:
        lost = f", {setting.diverged} diverged" if setting.diverged else ""
        rows.append(
            [setting.name, f"{setting.n}{lost}", *(written(of(setting, name), name) for name in metrics.values())]
        )
    return ["setting", "runs", *metrics], rows


def against(first: Setting, second: Setting, metric: str) -> tuple[str, Comparison]:
    """``above``, ``below`` or ``not distinguishable``: what the first one's mean is beside the second's; and by how much."""
    found = compare(by_seed(first, metric), by_seed(second, metric))
    if not found.p < 0.05:
        return "not distinguishable", found
    return ("above" if found.difference > 0 else "below"), found


def difference(found: Comparison, metric: str) -> str:
    """``8.20 points, 95% interval 5.10 to 11.30 points, paired over 10 seeds``."""
    how = Metric(metric)
    amount = how.write_difference(abs(found.difference))
    if not math.isfinite(found.half):
        return f"{amount}, one seed"
    sign = 1 if found.difference >= 0 else -1
    low, high = (how.write_difference(sign * found.difference + side * found.half) for side in (-1, 1))
    over = f"paired over {found.n} seeds" if found.paired else f"n = {found.n}"
    return f"{amount}, 95% interval {low.removesuffix(' points')} to {high}, {over}"


def judged(runs: Sequence[Run], metric: str = VAL) -> Judged:
    """gradlab's own verdict over these runs."""
    return judge(Source(f"{len(runs)} runs", runs, [], None, None), Metric(metric))


def best_choice(found: Judged, key: str) -> tuple[str, tuple[str, ...]]:
    """The value of ``key`` in the best setting, and those values of it that some setting has which is not ruled out."""
    assert found.ranking.best is not None
    best = shown(found.ranking.best.values[key])
    rivals = dict.fromkeys(shown(other.setting.values[key]) for other in found.ranking.rivals)
    return best, tuple(value for value in rivals if value != best)


def best_by(settings: Sequence[Setting], key: str) -> dict[str, Setting]:
    """For each value of ``key`` its setting with the highest mean validation accuracy; of equal ones the lower cost."""
    found: dict[str, Setting] = {}
    for setting in sorted(
        settings, key=lambda one: (-round(one.mean, 9), mean(one, TRAIN_LOSS)) if one.n else (math.inf, 0)
    ):
        found.setdefault(shown(setting.values[key]), setting)
    return found


def rows_of(sources: Sequence[Source]) -> list[dict[str, object]]:
    """A row to a run, for the results file: what was swept, what came out, and which run it is."""
    begun = [(place, run) for place, source in enumerate(sources, 1) for run in source.runs if run.status != "waiting"]
    swept = swept_keys([run for _, run in begun])
    rows: list[dict[str, object]] = []
    for place, run in begun:
        row: dict[str, object] = {"command": place, **{key: run.config.get(key, "") for key in swept}}
        row |= {"seed": run.seed, "status": run.status}
        if run.folder is not None:
            folder = RunFolder(run.folder)
            row |= {f"first {TRAIN_LOSS}": _plain((series(folder.journal, TRAIN_LOSS)[1] or [math.nan])[0])}
            row |= {name: _plain(number(run, name)) for name in (TRAIN_LOSS, TRAIN_ACCURACY, VAL, TEST)}
            if folder.layer_states.exists():
                start = [state for state in read_states(folder.layer_states) if state.step == 0]
                for what in ("activation_std", "weight_gradient_std"):
                    row |= {f"layer {one.depth} {what} at the start": _plain(getattr(one, what)) for one in start}
            result = json.loads(folder.result.read_text())
            row |= {
                "steps": result["steps"],
                "diverged at step": run.diverged_at or "",
                "training seconds": round(run.seconds, 1),
            }
            row |= {"point": result["point"][:12], "parameters_sha256": (result["parameters_sha256"] or "")[:12]}
            row |= {"mlflow_run_id": run.mlflow_run_id or "", "folder": run.folder.name}
        rows.append(row)
    return rows


def workers_of(source: Source) -> int | None:
    """How many workers the command that made a sweep asked for; None where it left that to the launcher."""
    given = [word.partition("=")[2] for word in source.command if word.startswith("hydra.launcher.workers=")]
    return int(given[-1]) if given and given[-1].isdigit() else None


def _plain(value: float) -> object:
    return float(f"{value:.8g}") if math.isfinite(value) else ""
