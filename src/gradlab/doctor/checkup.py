"""The whole look, section by section, as a report or as JSON."""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from gradlab.doctor.data import look_at_data
from gradlab.doctor.device import look_at_device
from gradlab.doctor.finding import GOOD, NOTE, WRONG, Finding, Look
from gradlab.doctor.installation import look_at_installation
from gradlab.doctor.places import look_at_disks, look_at_store
from gradlab.doctor.runs import look_at_runs
from gradlab.secrecy import redacted

STYLES = {GOOD: "green", NOTE: "yellow", WRONG: "bold red"}


def check_up(output_dir: Path, data_root: Path, uri: str | None, over: list[Path], as_json: bool) -> int:
    """Look at everything and say what to do; returns 1 where something is wrong.

    Args:
        output_dir: where runs make their folders.
        data_root: the folder of published datasets.
        uri: the MLflow store; None for the environment's or the default one.
        over: runs elsewhere that are known to be over.
        as_json: print one JSON object instead of lines.
    """
    looks: dict[str, Look] = {
        "installation": look_at_installation,
        "device": look_at_device,
        "store": partial(look_at_store, uri),
        "disk": partial(look_at_disks, output_dir, uri),
        "data": partial(look_at_data, data_root),
        "runs": partial(look_at_runs, output_dir, over, uri),
    }
    console, findings = Console(), []
    for about, look in looks.items():
        for finding in _without_fail(about, look):
            findings.append(finding)
            if not as_json:
                _print(console, finding)
    wrong = sum(finding.verdict == WRONG for finding in findings)
    if as_json:
        print(json.dumps({"wrong": wrong, "findings": [dataclasses.asdict(finding) for finding in findings]}, indent=2))
    else:
        console.print(f"\n{wrong} {'thing is' if wrong == 1 else 'things are'} wrong." if wrong else "\nAll is well.")
    return int(bool(wrong))


def _without_fail(about: str, look: Look) -> Iterator[Finding]:
    """The findings of one look; what it stumbles over is one, and the other looks are made all the same."""
    try:
        yield from look()
    except Exception as error:
        yield Finding(about, WRONG, redacted(f"cannot be looked at: {type(error).__name__}: {error}"))


def _print(console: Console, finding: Finding) -> None:
    verdict = f"[{STYLES[finding.verdict]}]{finding.verdict:<6}[/]"
    console.print(f"{finding.about:<13}{verdict} {escape(finding.said)}", soft_wrap=True, highlight=False)
    if finding.advice:
        console.print(f"{'':<20}{escape(finding.advice)}", soft_wrap=True, highlight=False, style="dim")
