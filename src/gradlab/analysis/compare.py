"""``gradlab compare``: the verdict over any runs, as a table in the terminal, Markdown, CSV or a page. Needs no torch."""

import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from gradlab.analysis.metric import choosing
from gradlab.analysis.sources import Source, find_runs, search_mlflow
from gradlab.analysis.table import Table, comma_separated, markdown, of_settings, without
from gradlab.analysis.verdict import Judged, judge, write_report
from gradlab.errors import ConfigError, GradlabError
from gradlab.tracking.folder import write_atomically

MOST_ROWS = 40
PAGE = "comparison.html"


def compare(
    paths: Sequence[Path], expression: str | None, *, experiment: str, uri: str | None, output_dir: Path,
    metric: str, form: str, into: Path | None,
) -> int:  # fmt: skip
    """Judge the runs that are named and show it; returns 0.

    Raises:
        ConfigError: nothing is named that could be compared.
        GradlabError: the store cannot be read, or the file not written.
    """
    chosen = choosing(metric)
    if expression is not None and paths:
        raise ConfigError("give folders or --filter, not both: a filter searches MLflow.")
    source: Source
    source = find_runs(paths, output_dir) if expression is None else search_mlflow(expression, experiment, uri)
    judged = judge(source, chosen)
    known = sorted({name for run in source.runs for name in run.metrics})
    if known and metric not in known:
        raise ConfigError(f"--metric {metric}: none of these runs has it. They have {', '.join(known)}.")
    if form == "table" and into is None:
        _show(judged)
        return 0
    into = into or (Path(PAGE) if form == "html" else None)
    try:
        if into is None:
            sys.stdout.write(_text(judged, form))
        elif form == "html":
            with tempfile.TemporaryDirectory(prefix="gradlab-compare-") as scratch:
                write_report(judged, into.absolute(), Path(scratch))
        else:
            write_atomically(into.absolute(), _text(judged, form))
    except OSError as error:
        raise GradlabError(f"{into} cannot be written: {error}") from error
    if into is not None:
        print(f"written to {into}")
    return 0


def _text(judged: Judged, form: str) -> str:
    if form == "csv":
        return comma_separated(judged.grouped, judged.ranking)
    content = of_settings(judged.grouped, judged.ranking)
    sentences = "\n\n".join([*judged.verdict.sentences, *judged.verdict.warnings])
    if form == "markdown":
        return f"{markdown(content)}\n{sentences}\n"
    text = io.StringIO()
    Console(file=text, width=_width(content)).print(_rich(content, len(content.rows)))
    return f"{text.getvalue()}\n{sentences}\n"


def _show(judged: Judged) -> None:
    console, content = Console(), of_settings(judged.grouped, judged.ranking)
    if console.is_terminal:
        for dispensable in ("seconds", "std", "lost", "p", "test accuracy"):
            if _width(content) > console.width and dispensable in content.headings:
                content = without(content, dispensable)
    else:
        console.width = _width(content)  # a file or a pipe has no edge
    console.print(f"[bold]{escape(judged.source.title)}[/bold]", highlight=False, soft_wrap=True)
    console.print(_rich(content, MOST_ROWS))
    if len(content.rows) > MOST_ROWS:
        rest = len(content.rows) - MOST_ROWS
        console.print(f"… and {rest:,} more settings; --format csv has all.", highlight=False, style="dim")
    console.print()
    for text in judged.verdict.sentences:
        console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    for text in judged.verdict.warnings:
        console.print(f"! {text}", highlight=False, markup=False, soft_wrap=not console.is_terminal, style="yellow")


def _width(content: Table) -> int:
    """The characters that the whole table takes in a row."""
    columns = zip(content.headings, *([cell.text for cell in row] for row in content.rows), strict=True)
    return sum(max(map(cell_len, column)) + 2 for column in columns)


def _rich(content: Table, most: int) -> RichTable:
    drawn = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading, right in zip(content.headings, content.numeric, strict=True):
        drawn.add_column(escape(heading), justify="right" if right else "left", overflow="fold")
    for row in content.rows[:most]:
        said = row[-1].text
        style = "bold" if said in ("best", "highest", "lowest") else {"diverged": "red", "pruned": "dim"}.get(said)
        drawn.add_row(*(escape(cell.text) for cell in row), style=style)
    return drawn
