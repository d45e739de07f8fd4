"""What came of many faults: a record that grows over many calls, and the table in `docs/faults.md` that says what it holds."""

import fcntl
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from faults.registry import Outcome
from gradlab import environment
from gradlab.tracking.folder import write_atomically

Summary = dict[str, Any]


class Record:
    """Counts by fault in the JSON file ``path``, which several processes may add to at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Summary]:
        try:
            return dict(json.loads(self.path.read_text()))
        except FileNotFoundError:
            return {}

    def made(self, name: str) -> int:
        """How many of a fault are in it."""
        return int(self.read().get(name, {}).get("of", 0))

    def forget(self, name: str) -> None:
        self._change(name, lambda summary: summary.clear())

    def add(self, name: str, seed: int, outcome: Outcome) -> None:
        """Count one outcome; of one that was not survived, what happened is kept."""

        def change(summary: Summary) -> None:
            summary.setdefault("seed", seed)
            for key, value in {
                "of": 1, "survived": outcome.survived, "rows_lost": outcome.rows_lost, "rows_doubled": outcome.rows_doubled
            }.items():  # fmt: skip
                summary[key] = summary.get(key, 0) + int(value)
            kinds: Counter[str] = Counter(summary.get("kinds", {}))
            kinds[outcome.kind] += 1
            summary["kinds"] = dict(sorted(kinds.items()))
            if not outcome.survived:
                summary.setdefault("not_survived", []).append(f"{outcome.kind}: {outcome.said}")
            summary["last"] = {
                "date": time.strftime("%Y-%m-%d"), "commit": environment.source().get("commit"), **environment.versions()
            }  # fmt: skip

        self._change(name, change)

    def _change(self, name: str, change: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            change(content.setdefault(name, {}))
            content = {key: content[key] for key in sorted(content) if content[key]}
            write_atomically(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def filled_in(page: str, record: dict[str, Summary]) -> str:
    """``page`` with the numbers of its table's last two columns taken from ``record``.

    A row is about the faults that its third column asks ``chaos.py`` for, as ``locked=8 server=32``.
    """
    return "\n".join(_row(line, record) if re.match(r"\| .*chaos\.py", line) else line for line in page.split("\n"))


def _row(line: str, record: dict[str, Summary]) -> str:
    *cells, _, rows = (cell.strip() for cell in line.strip()[1:-1].split("|"))
    (command,) = re.findall(r"`chaos\.py ([^`]*)`", cells[2])
    counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", command)}
    summaries = [record.get(name, {}) for name in counts]
    of, asked = sum(summary.get("of", 0) for summary in summaries), sum(counts.values())
    survived = f"{sum(summary.get('survived', 0) for summary in summaries):,} of {of:,}" + (
        f" (of {asked:,})" if of < asked else ""
    )
    if rows != "–":
        lost, doubled = (sum(summary.get(key, 0) for summary in summaries) for key in ("rows_lost", "rows_doubled"))
        rows = f"{lost:,}" + (f", {doubled:,} doubled" if doubled else "")
    return f"| {' | '.join([*cells, survived, rows])} |"
