"""An experiment's folder: README, figure, results, settings and findings; and whether new findings agree with it."""

import csv
import io
import json
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradlab import environment
from gradlab.experiments.drawing import DPI
from gradlab.experiments.experiment import Experiment, Finding, Form, Outcome
from gradlab.tracking.folder import write_atomically

VERDICT, RESULTS, FIGURE, SETTINGS, README = "verdict.json", "results.csv", "figure.png", "settings.yaml", "README.md"
RERUNS = "reruns.csv"


def write(
    folder: Path,
    experiment: Experiment,
    form: Form,
    outcome: Outcome,
    commands: Sequence[Sequence[str]],
    settings: str,
    took: "Took | None" = None,
) -> None:
    """Write what came out into ``folder``, that of the form. ``took``: how long all commands took."""
    folder.mkdir(parents=True, exist_ok=True)
    if _answers(recorded(folder)) != _answers(outcome.findings):
        (folder / RERUNS).unlink(missing_ok=True)  # what other seeds said was said of other answers
    outcome.figure.suptitle(_heading(experiment, form, outcome.figure.get_figwidth()), fontsize=11, fontweight="bold")
    outcome.figure.savefig(folder / FIGURE, dpi=DPI)
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in outcome.rows for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(outcome.rows)
    write_atomically(folder / RESULTS, text.getvalue())
    if settings:
        write_atomically(folder / SETTINGS, settings)
    for name, content_of_file in outcome.files.items():
        write_atomically(folder / name, content_of_file)
    content: dict[str, object] = {
        "experiment": experiment.name,
        "data": form.name,
        "commands": [shlex.join(command) for command in commands],
        "findings": [asdict(finding) for finding in outcome.findings],
        "table": [list(outcome.headings), *[list(row) for row in outcome.table]],
        "versions": environment.versions(),
        "processor": environment.processor(),
    }
    if took is not None:
        content |= {"seconds": round(took.seconds), "workers": took.workers}
    write_atomically(folder / VERDICT, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _heading(experiment: Experiment, form: Form, inches: float) -> str:
    """The question without its number, and the data: a figure is looked at without its page, too."""
    question = re.sub(r"^\d+\. ", "", experiment.question)
    return "\n".join(textwrap.wrap(f"{question} ({form.name})", int(10 * inches)))


def _answers(findings: Sequence[Finding] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """What reruns are compared with."""
    return [(one.key, one.value, tuple(one.also)) for one in findings or ()]


def recorded(folder: Path) -> list[Finding] | None:
    """The findings that a folder holds; None where it holds none."""
    try:
        found = json.loads((folder / VERDICT).read_text())["findings"]
    except FileNotFoundError:
        return None
    return [Finding(**{**entry, "also": tuple(entry["also"])}) for entry in found]


@dataclass(frozen=True)
class Took:
    """How long an experiment's commands took, in seconds of wall time, and with how many workers, where that was chosen."""

    seconds: float
    workers: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a rerun says of a recorded answer: it ``holds``, is ``compatible``, has ``CHANGED``, or is ``new``."""

    verdict: str
    key: str
    value: str
    was: str

    @property
    def line(self) -> str:
        was = "" if self.verdict in ("holds", "new") else f" (was {self.was})"
        return f"{self.verdict:<10} {self.key}: {self.value}{was}"


def compared(before: Sequence[Finding], now: Sequence[Finding]) -> list[Answer]:
    """Each answer of now beside that of before."""
    earlier = {finding.key: finding for finding in before}
    answers = []
    for finding in now:
        known = earlier.get(finding.key)
        if known is None:
            verdict = "new"
        elif not finding.agrees_with(known):
            verdict = "CHANGED"
        else:
            verdict = "holds" if finding.value == known.value else "compatible"
        answers.append(Answer(verdict, finding.key, finding.value, known.value if known else ""))
    return answers


def holds(answers: Sequence[Answer]) -> bool:
    return all(answer.verdict != "CHANGED" for answer in answers)


def note_rerun(folder: Path, first_seed: int, answers: Sequence[Answer]) -> None:
    """Keep beside a record what other seeds said of it; in place of what the same seeds said before."""
    rows = [row for row in _reruns(folder) if int(row["seeds from"]) != first_seed]
    rows += [
        {
            "seeds from": str(first_seed),
            "verdict": one.verdict,
            "answer": one.key,
            "value": one.value,
            "recorded": one.was,
        }
        for one in answers
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: int(row["seeds from"])))
    write_atomically(folder / RERUNS, text.getvalue())


def _reruns(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / RERUNS).open(newline="") as lines:
            return list(csv.DictReader(lines))
    except FileNotFoundError:
        return []


def _said_by_reruns(folder: Path, prefix: str) -> list[str]:
    """A paragraph on the reruns with other seeds."""
    rows = _reruns(folder)
    parts = []
    for first in dict.fromkeys(row["seeds from"] for row in rows):
        own = [row for row in rows if row["seeds from"] == first]
        counts = {word: sum(row["verdict"] == word for row in own) for word in ("holds", "compatible", "CHANGED")}
        changed = "; ".join(
            f"{row['answer']} is {row['value']}, was {row['recorded']}" for row in own if row["verdict"] == "CHANGED"
        )
        parts.append(
            f"with seeds from {first} on {counts['holds']} of {sum(counts.values())} answers hold, {counts['compatible']} are others that neither "
            f"these runs nor those rule out, {counts['CHANGED']} have changed{f' ({changed})' if changed else ''}"
        )
    return [f"*Asked again* ([{RERUNS}]({prefix}{RERUNS})): {'; '.join(parts)}.\n"] if parts else []


def folder_of(root: Path, experiment: Experiment, form: Form) -> Path:
    """Where the results of a form are: in the experiment's folder those of its first one, those of others below."""
    home = root / experiment.folder
    return home if form is experiment.forms[0] else home / form.name


def write_readme(root: Path, experiment: Experiment) -> None:
    """Make the README anew from what the folders hold."""
    home = root / experiment.folder
    parts = [f"# {experiment.question}\n", experiment.text.strip() + "\n", "## Run it\n", _commands(root, experiment)]
    for form in experiment.forms:
        folder = folder_of(root, experiment, form)
        if (folder / VERDICT).is_file():
            parts.append(_results(experiment, form, folder, "" if folder == home else f"{form.name}/"))
    write_atomically(home / README, "\n".join(parts))


def _commands(root: Path, experiment: Experiment) -> str:
    """The command of each form, and how long its record took."""
    first = experiment.forms[0]
    lines: list[tuple[str, Form | None]] = [
        (experiment.name + (" --data my_pictures" if first.wants_pictures else ""), first)
    ]
    lines += [
        (f"{experiment.name} --data {form.name}", form) for form in experiment.forms[1:] if not form.wants_pictures
    ]
    pictures = next((form for form in experiment.forms if form.wants_pictures), None)
    if pictures is not None and pictures is not first:
        lines.append((f"{experiment.name} --data my_pictures", pictures))
    told = [(line, "" if form is None else _took(root, experiment, form)) for line, form in lines]
    if first.full is not None:
        told.append((f"{experiment.name} --full", "hours on a CPU, for a GPU; never run here"))
    width = max(len(line) for line, _ in told)
    texts = [
        f"python -m gradlab.experiments {line:<{width}}" + (f"    # {said}" if said else "") for line, said in told
    ]
    return "```bash\n" + "\n".join(text.rstrip() for text in texts) + "\n```\n"


def _took(root: Path, experiment: Experiment, form: Form) -> str:
    """How long the record of a form took; empty where there is none."""
    try:
        content = json.loads((folder_of(root, experiment, form) / VERDICT).read_text())
    except FileNotFoundError:
        return ""
    return _time(content).removeprefix(", in ")


def _results(experiment: Experiment, form: Form, folder: Path, prefix: str) -> str:
    content = json.loads((folder / VERDICT).read_text())
    headings, *rows = content["table"]
    table = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    told = "What came out" if not prefix else f"What came out on {form.name}"
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    commands = "\n".join(content["commands"])
    shared = f" What all runs share: [{SETTINGS}]({prefix}{SETTINGS})." if (folder / SETTINGS).is_file() else ""
    parts = [
        f"## {told}\n",
        *(
            f"**{said}**\n" if place == 0 else f"{said}\n"
            for place, said in enumerate(f["said"] for f in content["findings"])
        ),
        *_said_by_reruns(folder, prefix),
        f"![{experiment.question}]({prefix}{FIGURE})\n",
        "\n".join(f"| {' | '.join(' '.join(str(cell).split()) for cell in row)} |" for row in table) + "\n",
        f"Every row: [{RESULTS}]({prefix}{RESULTS}).{shared} Made by\n",
        f"```bash\n{commands}\n```\n",
        f"on {content['processor']}{_time(content)}; {versions}.\n",
    ]
    return "\n".join(parts)


def _time(content: Mapping[str, Any]) -> str:
    """``, in 3.1 minutes with one worker``, as far as the record says it."""
    seconds, workers = content.get("seconds"), content.get("workers")
    if seconds is None:
        return ""
    said = f", in {seconds} seconds" if seconds < 100 else f", in {seconds / 60:.1f} minutes"
    return said + ("" if workers is None else " with one worker" if workers == 1 else f" with {workers} workers")
