"""Makes faults and counts what survives them: real processes, real stores, real disks.

    .venv/bin/python scripts/chaos.py                                 lists the faults, with their full counts
    .venv/bin/python scripts/chaos.py server=5 disk=2 mistakes=20     so many of each
    .venv/bin/python scripts/chaos.py damaged --data ../shared/data   at full count
    .venv/bin/python scripts/chaos.py sigkill --record docs/faults.json --minutes 5
                                      those of the full count that are not in the record yet, for five minutes
    .venv/bin/python scripts/chaos.py --record docs/faults.json --table docs/faults.md
                                      writes what the record holds into the table

A fault is a function in a file of `scripts/faults/`; number 7 of it is the same whichever others are made. Exit status 0 where
every one was survived.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import FAULTS, Fault, Outcome, Setting
from faults.campaign import Record, filled_in


def main() -> int:
    parsed = _parse()
    if parsed.table:
        parsed.table.write_text(filled_in(parsed.table.read_text(), Record(parsed.record).read()))
        return 0
    if not parsed.faults:
        for fault in FAULTS.values():
            print(f"{fault.name:<11}{fault.full:>4}  {fault.title}")
        return 0
    record = Record(parsed.record) if parsed.record else None
    until = time.monotonic() + 60 * parsed.minutes
    made: dict[str, list[Outcome]] = {}
    with contextlib.ExitStack() as stack:
        folder = parsed.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-chaos-")))
        for fault, count in parsed.faults:
            place = (folder / fault.name).absolute()
            place.mkdir(parents=True, exist_ok=True)
            cleanup = stack.enter_context(contextlib.ExitStack())
            setting = Setting(place, parsed.seed, parsed.data.absolute(), parsed.seconds, cleanup)
            first = record.made(fault.name) if record else 0
            outcomes = made[fault.name] = []
            for outcome in _make(fault, setting, first, count, until, parsed.at_once, parsed.folder is None):
                outcomes.append(outcome)
                if record:
                    record.add(fault.name, parsed.seed, outcome)
                mark = "survived" if outcome.survived else "NOT SURVIVED"
                print(f"{fault.name} {first + len(outcomes)}/{count}  {mark}  {outcome.kind}: {outcome.said}", flush=True)  # fmt: skip
            print(_counted(fault.name, outcomes), flush=True)
            cleanup.close()
            if parsed.json:
                told = {name: [dataclasses.asdict(one) for one in several] for name, several in made.items()}
                parsed.json.write_text(json.dumps(told, indent=1) + "\n")
    return int(not all(one.survived for outcomes in made.values() for one in outcomes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def wanted(word: str) -> tuple[Fault, int]:
        name, _, count = word.partition("=")
        if name not in FAULTS or not (count.isdigit() or not count):
            raise argparse.ArgumentTypeError(f"'{word}' is no FAULT or FAULT=COUNT; faults are {', '.join(FAULTS)}")
        return FAULTS[name], int(count or FAULTS[name].full)

    parser.add_argument("faults", nargs="*", type=wanted, metavar="FAULT[=COUNT]")
    parser.add_argument("--seed", type=int, default=0, help="of moments, sizes and kinds (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="the folder that holds MNIST/raw (default: data)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="for which a store is locked (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=1, help="faults at once; for those that wait, as locked does")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no other fault is begun")
    parser.add_argument("--folder", type=Path, help="work in here and leave it; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write every outcome there")
    parser.add_argument("--record", type=Path, help="add the outcomes to this record, after those that it has")
    parser.add_argument("--table", type=Path, help="write the counts of --record into the table of this page")
    parsed = parser.parse_args()
    if parsed.table and not parsed.record:
        parser.error("--table needs --record")
    return parsed


def _make(
    fault: Fault, setting: Setting, first: int, count: int, until: float, at_once: int, tidy: bool
) -> Iterator[Outcome]:
    """The outcomes of faults number ``first`` to ``count``, in this order, as long as there is time."""

    def make(number: int) -> Outcome:
        outcome = fault.make(setting, number)
        if tidy and outcome.survived:
            shutil.rmtree(setting.place(number), ignore_errors=True)
        return outcome

    numbers = itertools.takewhile(lambda _: time.monotonic() < until, range(first, count))
    if at_once == 1:
        yield from map(make, numbers)
        return
    with ThreadPoolExecutor(at_once) as pool:
        while several := list(itertools.islice(numbers, at_once)):
            yield from pool.map(make, several)


def _counted(name: str, outcomes: list[Outcome]) -> str:
    survived = sum(one.survived for one in outcomes)
    lost, doubled = sum(one.rows_lost for one in outcomes), sum(one.rows_doubled for one in outcomes)
    return f"{name}: {survived} of {len(outcomes)} survived, {lost} rows lost, {doubled} doubled"


if __name__ == "__main__":
    sys.exit(main())
