"""The frame of a report: one HTML file with its style and script in it, which asks nothing of any other place.

The Content-Security-Policy allows this one script, by its hash, images that are in the file, and nothing from outside: a
run's name can neither load nor run anything, even if escaping it were forgotten somewhere.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from gradlab.analysis.table import Cell, Table

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5c6570; --line: #dfe3e8; --page: #ffffff; --card: #f6f8fa;
  --link: #0b5cad; --warn: #8a4b00; --warnback: #fff4e0; --bad: #b3261e; --good: #0a6b3d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #343b44; --page: #14181d;
  --card: #1d232a; --link: #7fb8f0; --warn: #ffc978; --warnback: #3a2c12; --bad: #ff8a80; --good: #6fd3a0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; }
a { color: var(--link); } .soft { color: var(--soft); } p { max-width: 52rem; }
ol.verdict { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 1.2rem 0; max-width: none;
  padding: 1rem 1.4rem 1rem 2.6rem; font-size: 1.08rem; } ol.verdict li { margin: .35rem 0; overflow-wrap: anywhere; }
ul.warnings { background: var(--warnback); color: var(--warn); border-radius: 10px; padding: .7rem 1.2rem .7rem 2.2rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; max-height: 36rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wide { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: var(--card); font-weight: 600; white-space: normal; vertical-align: bottom; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
.right { text-align: right; } tr:last-child td { border-bottom: 0; } tr.best td { font-weight: 600; background: var(--card); }
td.bad { color: var(--bad); } td.good { color: var(--good); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden; background: var(--card); }
figure img { display: block; width: 100%; height: auto; background: white; }
figure.first { grid-column: 1 / -1; } figure.first img { max-width: 62rem; margin: 0 auto; }
figcaption { padding: .6rem .9rem; font-size: .88rem; color: var(--soft); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; }
@media print { .scroll { max-height: none; overflow: visible; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = head.textContent; button.title = "sort by this column";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0], key = row => row.cells[column].dataset.sort;
      const compare = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const difference = a - b, order = Number.isNaN(difference) ? a.localeCompare(b) : difference;
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    });
  });
}
"""


def page(title: str, body: str) -> str:
    """The whole file around ``body``, which is HTML already."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def table(content: Table, links: Sequence[str | None] = (), classes: Sequence[str] = ()) -> str:
    """A sortable table. ``links`` are the addresses of the rows' first cells, ``classes`` those of the rows."""
    heads = "".join(
        f'<th scope="col"{_right(right)}>{escape(heading)}</th>'
        for heading, right in zip(content.headings, content.numeric, strict=True)
    )
    rows = []
    for index, row in enumerate(content.rows):
        cells = "".join(
            _cell(cell, right, links[index] if links and column == 0 else None)
            for column, (cell, right) in enumerate(zip(row, content.numeric, strict=True))
        )
        style = f' class="{classes[index]}"' if classes and classes[index] else ""
        rows.append(f"<tr{style}>{cells}</tr>")
    body = "\n".join(rows)
    return f'<div class="scroll"><table class="sortable"><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(cell: Cell, right: bool, link: str | None) -> str:
    sort = "" if cell.sort != cell.sort else escape(str(cell.sort))  # NaN goes last, whichever way
    text = escape(cell.text)
    if link:
        text = f'<a href="{escape(link)}">{text}</a>'
    marks = [name for name, on in (("right", right), ("wide", len(cell.text) > 60)) if on]
    marks += ["bad"] if cell.text.split(" ")[0] in ("diverged", "failed", "killed") else []
    marks += ["good"] if cell.text in ("best", "highest", "lowest") else []
    style = f' class="{" ".join(marks)}"' if marks else ""
    return f'<td{style} data-sort="{sort}">{text}</td>'


def _right(right: bool) -> str:
    return ' class="right"' if right else ""


def image(path: Path, title: str, caption: str, wide: bool) -> str:
    """A picture that is in the file itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    style = ' class="first"' if wide else ""
    return (
        f'<figure{style}><img alt="{escape(f"{title}. {caption}")}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption></figure>"
    )


def relative_link(folder: Path, base: Path | None) -> str | None:
    """The address of ``folder`` from a report in ``base``; None where it is not below it."""
    if base is None or not folder.is_relative_to(base):
        return None
    return quote(f"{folder.relative_to(base)}/")


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>"


def items(texts: Sequence[str], kind: str, style: str) -> str:
    """A list, ``ol`` or ``ul``."""
    return f'<{kind} class="{style}">' + "".join(f"<li>{escape(text)}</li>" for text in texts) + f"</{kind}>"
