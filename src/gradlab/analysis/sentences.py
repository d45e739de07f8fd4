"""The verdict in plain English: three sentences, each backed by a number, and what must be said beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradlab.analysis.advice import next_steps
from gradlab.analysis.caveats import caveats
from gradlab.analysis.grouping import Grouped, Setting, at_steps, lost, shown, spoken
from gradlab.analysis.ranking import Compared, Ranking
from gradlab.analysis.records import STOPPED
from gradlab.analysis.sources import Source
from gradlab.analysis.statistics import Estimate, estimate

TEST = "test/accuracy"
TOLERANCE = 0.01
"""How far below the best still counts as about as good: a point of accuracy, a hundredth of anything else."""


@dataclass(frozen=True)
class Verdict:
    """What is said.

    best: which setting is best, by how much, how sure.
    meaning: what that is on the test images, and how much the choice of the numbers matters.
    next: what to try next.
    warnings: what a reader must know before believing these, such as points that are missing.
    """

    best: str
    meaning: str
    next: str
    warnings: Sequence[str]

    @property
    def sentences(self) -> list[str]:
        return [self.best, self.meaning, self.next]


def conclude_in_words(source: Source, grouped: Grouped, ranking: Ranking) -> Verdict:
    """The three sentences and the warnings."""
    return Verdict(
        best=_best(grouped, ranking),
        meaning=_meaning(grouped, ranking),
        next=next_steps(source, grouped, ranking),
        warnings=caveats(source, grouped, ranking),
    )


# ------------------------------------------------------------------ which is best


def _best(grouped: Grouped, ranking: Ranking) -> str:
    metric, best = grouped.metric, ranking.best
    if best is None or best.estimate is None:
        return _no_best(grouped)
    if ranking.lone_seeds:
        among = f" of {1 + len(ranking.others)} settings" if ranking.others else ""
        return (
            f"{best.name} has the {_top(grouped)} {metric.words}{among}, {metric.write(best.mean)}, but every setting ran "
            "with a single seed (n = 1), so there is no interval and nothing is ranked."
        )
    value = f"{metric.write(best.mean)}{_interval(best.estimate, grouped)}"
    if len(grouped.settings) == 1:
        return f"The only setting has a mean {metric.words} of {value}."
    if not ranking.others:
        return f"{best.name} is the only setting with a finished run: a mean {metric.words} of {value}."
    if not ranking.rivals:
        second = ranking.others[0]
        return f"{best.name} is best: a mean {metric.words} of {value}, {_above(second, grouped)}."
    first = ranking.rivals[0]
    others = len(ranking.rivals) - 1
    # With few seeds that includes settings which look much worse, and a reader should know why.
    also = f" nor, with {best.n} seeds, from {others} other{'s' * (others > 1)}" if others else ""
    out = len(ranking.ruled_out)
    rest = f"; {out} of {len(ranking.others)} are ruled out" if out else ""
    return (
        f"{best.name} has the {_top(grouped)} mean {metric.words}, {value}, but is not distinguishable from "
        f"{first.setting.name} ({_difference(first, grouped)}){also}{rest}."
    )


def _no_best(grouped: Grouped) -> str:
    counts = {
        status: sum(setting.count(status) for setting in grouped.settings)
        + sum(run.status == status for run in grouped.unplaced)
        for status in ("finished", "diverged", *STOPPED, "failed", "killed", "running", "waiting")
    }
    total = sum(len(setting.runs) for setting in grouped.settings) + len(grouped.unplaced)
    if counts["finished"]:
        return (
            f"None of the {counts['finished']} finished runs has a {grouped.metric.name}, so there is no best setting."
        )
    if total and counts["diverged"] == total:
        return f"{_all(total)} diverged, so there is no best setting."
    ended = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"No run has finished ({ended or 'there are none'}), so there is no best setting."


def _interval(found: Estimate, grouped: Grouped) -> str:
    if found.n == 1:
        return " (one seed: no interval)"
    if math.isnan(found.half):
        return f" (all {found.n} seeds alike: no interval)"
    return f" ± {grouped.metric.write_half(found.half)} (95% confidence interval, n = {found.n} seeds)"


def _above(second: Compared, grouped: Grouped) -> str:
    amount = grouped.metric.write_difference(abs(second.comparison.difference))
    return f"{amount} {_better(grouped)} than {second.setting.name} ({_how_sure(second, grouped)})"


def _difference(rival: Compared, grouped: Grouped) -> str:
    compared = rival.comparison
    amount = grouped.metric.write_difference(abs(compared.difference))
    if rival.setting.n < 2:
        return f"{amount} apart, one seed"
    if compared.difference == 0:
        return f"the same mean, {_over(rival)}"
    return f"{amount} {'apart' if compared.difference > 0 else 'in its favour'}, {_how_sure(rival, grouped)}"


def _how_sure(compared: Compared, grouped: Grouped) -> str:
    found = compared.comparison
    if math.isnan(found.half):
        return f"no spread in {_over(compared)}"
    low, high = (grouped.metric.write_difference(found.difference + sign * found.half) for sign in (-1, 1))
    return f"95% interval {low.removesuffix(' points')} to {high}, {_over(compared)}"


def _over(compared: Compared) -> str:
    n = compared.comparison.n
    return f"paired over {n} seeds" if compared.comparison.paired else f"unpaired, n = {n}"


# -------------------------------------------------------------------- what it means


def _meaning(grouped: Grouped, ranking: Ranking) -> str:
    best = ranking.best
    if best is None:
        return _where_it_diverged(grouped)
    test = estimate_on_test(best)
    if test is None:
        first = "Its test accuracy is not recorded"
    else:
        spread = f" ± {100 * test.half:.2f}%" if math.isfinite(test.half) else ""
        first = f"On the test images, which chose nothing, it reaches {test.mean:.2%}{spread} (n = {test.n})"
    return f"{first}{_robustness(grouped, best)}."


def estimate_on_test(setting: Setting) -> Estimate | None:
    """The test accuracy of a setting over the seeds that its choice rests on."""
    by_seed = {run.seed: run.metric(TEST) for run in setting.finished_runs}
    values = [value for value in by_seed.values() if math.isfinite(value)]
    return estimate(values) if values else None


def _robustness(grouped: Grouped, best: Setting) -> str:
    """How far the most important number may be off before the metric suffers."""
    if not grouped.numbers or best.estimate is None:
        return ""
    key = grouped.numbers[0]
    line = along(grouped, best, key)
    if len(line) < 2:
        return ""
    metric = grouped.metric
    least = best.mean - metric.gain(TOLERANCE if metric.share else abs(best.mean) * TOLERANCE)
    good = [
        bool(setting.estimate) and not lost(setting) and metric.gain(setting.mean - least) >= 0 for _, setting in line
    ]
    index = next(i for i, (_, setting) in enumerate(line) if setting is best)
    first = last = index
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(line) - 1 and good[last + 1]:
        last += 1
    low, high = line[first][0], line[last][0]
    words, limit = spoken(key), metric.write(least)
    side = "below" if metric.higher_is_better else "above"
    if first == 0 and last == len(line) - 1:
        return f", and {words} hardly matters: no value tried from {shown(low)} to {shown(high)} is {side} {limit}"
    neighbours = [line[index] for index in (first - 1, last + 1) if 0 <= index < len(line)]
    # What was stopped is not known to be worse in the end.
    unknown = [setting.stopped > 0 and not setting.n for _, setting in neighbours]
    told = [f"{shown(value)} ({_what(setting, grouped)})" for value, setting in neighbours]
    outside = [text for text, stopped in zip(told, unknown, strict=True) if not stopped]
    beyond = [text for text, stopped in zip(told, unknown, strict=True) if stopped]
    within = f"only at {shown(low)}" if low == high else f"from {shown(low)} to {shown(high)}"
    than = f", and {side} {limit} at {' and at '.join(outside)}" if outside else ""
    than += f"; not known at {' and at '.join(beyond)}" if beyond else ""
    matters = f"{words} matters: " if outside else ""
    return f", and {matters}{metric.words} is within {_tolerance(grouped)} of the best {within}{than}"


def along(grouped: Grouped, best: Setting, key: str) -> list[tuple[float, Setting]]:
    """The settings that differ from ``best`` in ``key`` alone, by its value, those that have ended; ``best`` included."""
    rest = {name: value for name, value in best.values.items() if name != key}
    found = [
        (setting.values[key], setting)
        for setting in grouped.settings
        if setting.ended
        and isinstance(setting.values.get(key), int | float)
        and {name: value for name, value in setting.values.items() if name != key} == rest
    ]
    return sorted(found, key=lambda pair: pair[0])  # type: ignore[arg-type]


def _what(setting: Setting, grouped: Grouped) -> str:
    if setting.stopped and not setting.n:
        return f"stopped early, {at_steps(setting.runs)}".rstrip(", ")
    if setting.diverged and not setting.n:
        return "diverged"
    return grouped.metric.write(setting.mean) + (f", {lost(setting)}" if lost(setting) else "")


def _tolerance(grouped: Grouped) -> str:
    return "one point" if grouped.metric.share else "one percent"


def _where_it_diverged(grouped: Grouped) -> str:
    steps = [run.diverged_at for s in grouped.settings for run in s.runs if run.diverged_at is not None]
    if steps:
        when = f"at step {steps[0]:,}" if len(set(steps)) == 1 else f"between steps {min(steps):,} and {max(steps):,}"
        return f"The loss stopped being finite {when} in {len(steps)} run{'s' * (len(steps) > 1)}."
    failed = [run for s in grouped.settings for run in s.runs if run.reason]
    failed += [run for run in grouped.unplaced if run.reason]
    if failed:
        return f"{len(failed)} run{'s' * (len(failed) > 1)} told why; the first, {failed[0].name}: {_line(failed[0].reason)}."
    return "There are 0 finished runs to say anything about."


# ---------------------------------------------------------------------------- words


def _top(grouped: Grouped) -> str:
    return "highest" if grouped.metric.higher_is_better else "lowest"


def _better(grouped: Grouped) -> str:
    return "higher" if grouped.metric.higher_is_better else "lower"


def _all(total: int) -> str:
    return "The only run" if total == 1 else f"All {total} runs"


def _line(text: str | None) -> str:
    return (text or "").splitlines()[0][:200].rstrip(".") if text and text.strip() else ""
