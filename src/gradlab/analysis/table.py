"""The tables of a comparison, settings and runs, as rows of text; and as Markdown and CSV. Best first."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.analysis.grouping import Grouped, Setting, at_steps, lost, short, shown
from gradlab.analysis.ranking import Ranking
from gradlab.analysis.records import STOPPED
from gradlab.analysis.sentences import TEST, estimate_on_test


@dataclass(frozen=True)
class Cell:
    """One cell: ``text`` as it is shown, and ``sort``, what it is sorted by."""

    text: str
    sort: float | str


@dataclass(frozen=True)
class Table:
    """``headings`` and ``rows``; ``numeric`` says which columns are set to the right."""

    headings: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[Cell]]


def verdicts(grouped: Grouped, ranking: Ranking) -> list[tuple[Setting, str]]:
    """Every setting, best first, those without a finished run last, each with what is said of it."""
    if ranking.best is None:
        return [(setting, _without(setting)) for setting in grouped.settings]
    best = "highest" if grouped.metric.higher_is_better else "lowest"
    said = {id(ranking.best): best if ranking.lone_seeds or ranking.rivals else "best"}
    if not ranking.others:
        said[id(ranking.best)] = "alone"
    for other in ranking.others:
        if ranking.lone_seeds:
            said[id(other.setting)] = "not ranked"
        elif other.setting.n < 2:
            said[id(other.setting)] = "one seed"
        else:
            said[id(other.setting)] = "ruled out" if other.ruled_out else "not distinguishable"
    finished = [ranking.best, *(other.setting for other in ranking.others)]
    finished.sort(key=lambda setting: -grouped.metric.gain(setting.mean))
    rest = [setting for setting in grouped.settings if id(setting) not in said]
    return [(s, said[id(s)]) for s in finished] + [(s, _without(s)) for s in rest]


def _without(setting: Setting) -> str:
    """What is said of a setting without a finished run."""
    for status in ("diverged", *STOPPED, "failed", "killed", "running", "waiting"):
        if setting.count(status):
            return status
    return "no value"


def of_settings(grouped: Grouped, ranking: Ranking) -> Table:
    """A row for each setting."""
    metric = grouped.metric
    names = [short(key) for key in grouped.swept]
    names = [name if names.count(name) == 1 else key for name, key in zip(names, grouped.swept, strict=True)]
    headings = [*names, metric.words, "±", "std", "n", "lost", "test accuracy", "seconds", "p", "verdict"]
    against = {id(other.setting): other for other in ranking.others}
    rows = []
    for setting, said in verdicts(grouped, ranking):
        found, test = setting.estimate, estimate_on_test(setting)
        half, std = (found.half, found.std) if found else (math.nan, math.nan)
        compared = against.get(id(setting))
        p = compared.adjusted_p if compared else math.nan
        rows.append(
            [
                *(_value(setting, key) for key in grouped.swept),
                _number(setting.mean, metric.write(setting.mean)),
                _number(half, metric.write_half(half)),
                _number(std, metric.write_half(std)),
                Cell(str(setting.n), float(setting.n)),
                Cell(
                    " ".join(filter(None, [lost(setting, _others(setting)), at_steps(setting.runs)])),
                    float(len(setting.runs) - setting.count("finished")),
                ),
                _number(test.mean if test else math.nan, f"{test.mean:.2%}" if test else "–"),
                _number(setting.seconds, f"{setting.seconds:.3g}"),
                _number(p, f"{p:.2g}"),
                Cell(said, said),
            ]
        )
    numeric = [
        *(key in grouped.numbers for key in grouped.swept),
        True,
        True,
        True,
        True,
        False,
        True,
        True,
        True,
        False,
    ]
    table = Table(headings, numeric, rows)
    return table if any(row[-5].text for row in rows) else without(table, "lost")


def of_runs(grouped: Grouped) -> Table:
    """A row for each run; its name is in the first column."""
    metric = grouped.metric
    rows = []
    for run in [run for setting in grouped.settings for run in setting.runs] + list(grouped.unplaced):
        value, test = metric.of(run), run.metric(TEST)
        note = f"diverged at step {run.diverged_at:,}" if run.diverged_at is not None else run.reason or ""
        if run.stopped_at is not None:
            note = f"stopped at step {run.stopped_at:,}: {note}"
        rows.append(
            [
                Cell(run.name, run.name),
                Cell("–" if run.seed is None else str(run.seed), math.inf if run.seed is None else run.seed),
                Cell(run.status, run.status),
                _number(value, metric.write(value)),
                _number(test, f"{test:.2%}"),
                _number(run.seconds, f"{run.seconds:.3g}"),
                Cell(note.splitlines()[0][:200] if note.strip() else "", note),
            ]
        )
    headings = ["run", "seed", "status", metric.words, "test accuracy", "seconds", "note"]
    return Table(headings, [False, True, False, True, True, True, False], rows)


def without(table: Table, heading: str) -> Table:
    """The table without one of its columns."""
    index = list(table.headings).index(heading)

    def rest(cells: Sequence[Any]) -> list[Any]:
        return [*cells[:index], *cells[index + 1 :]]

    return Table(rest(table.headings), rest(table.numeric), [rest(row) for row in table.rows])


def _others(setting: Setting) -> list[str]:
    """The statuses of its runs other than finished."""
    return sorted({run.status for run in setting.runs} - {"finished"})


def _value(setting: Setting, key: str) -> Cell:
    if key not in setting.values:
        return Cell("–", math.inf)
    value = setting.values[key]
    return Cell(shown(value), value if isinstance(value, int | float) else shown(value))


def _number(value: float, text: str) -> Cell:
    return Cell(text, value) if math.isfinite(value) else Cell("–", math.nan)


def markdown(table: Table) -> str:
    """A GitHub table; a bar or a line break in a name cannot break it."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"

    rule = ["---:" if right else "---" for right in table.numeric]
    return (
        "\n".join([line(table.headings), line(rule), *(line([cell.text for cell in row]) for row in table.rows)]) + "\n"
    )


def comma_separated(grouped: Grouped, ranking: Ranking) -> str:
    """Every setting as numbers, unrounded, for another program."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metric = grouped.metric.name
    writer.writerow(
        [*grouped.swept, f"{metric} mean", "ci95_half", "std", "n", "runs", "diverged", "pruned", "failed", "test/accuracy mean",
         "seconds", "above_it", "above_it_ci95_half", "adjusted_p", "verdict"]
    )  # fmt: skip
    against = {id(other.setting): other for other in ranking.others}
    for setting, said in verdicts(grouped, ranking):
        found, test, other = setting.estimate, estimate_on_test(setting), against.get(id(setting))
        numbers = [
            setting.mean,
            found.half if found else math.nan,
            found.std if found else math.nan,
        ]
        rest = [test.mean if test else math.nan, setting.seconds]
        compared = [other.comparison.difference, other.comparison.half, other.adjusted_p] if other else [math.nan] * 3
        writer.writerow(
            [
                *(setting.values.get(key, "") for key in grouped.swept),
                *map(_plain, numbers),
                *(setting.n, len(setting.runs), setting.diverged, setting.stopped, setting.count("failed")),
                *map(_plain, rest),
                *map(_plain, compared),
                said,
            ]
        )
    return text.getvalue()


def _plain(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""
