"""Makes faults and counts what survives them: real processes, real stores, real disks.

    .venv/bin/python scripts/chaos.py                                 lists the faults
    .venv/bin/python scripts/chaos.py store=5 disk=2 mistakes=20      so many of each
    .venv/bin/python scripts/chaos.py damaged=200 --data ../shared/data --json damaged.json

A fault is a function in a file of `scripts/faults/`, registered by its name; `docs/faults.md` has what came out at full count.
Exit status 0 where every one was survived.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from faults import FAULTS, Setting


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT=COUNT")
    parser.add_argument("--seed", type=int, default=0, help="of moments, sizes and kinds (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="the folder that holds MNIST/raw (default: data)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="for which a store is locked (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="work in here and leave it; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write every outcome there")
    parsed = parser.parse_args()
    if not parsed.faults:
        for name, fault in FAULTS.items():
            print(f"{name:<12}{(fault.__doc__ or '').splitlines()[0]}")
        return 0
    counts = {}
    for word in parsed.faults:
        name, _, count = word.partition("=")
        if name not in FAULTS or not count.isdigit():
            parser.error(f"'{word}' is no FAULT=COUNT; faults are {', '.join(FAULTS)}")
        counts[name] = int(count)
    results = {}
    with contextlib.ExitStack() as stack:
        folder = parsed.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-chaos-")))
        for name, count in counts.items():
            place = (folder / name).absolute()
            place.mkdir(parents=True, exist_ok=True)
            began, outcomes = time.monotonic(), []
            setting = Setting(count, place, parsed.seed, parsed.data.absolute(), parsed.seconds)
            for outcome in FAULTS[name](setting):
                outcomes.append(outcome)
                mark = "survived" if outcome.survived else "NOT SURVIVED"
                print(f"{name} {len(outcomes)}/{count}  {mark}  {outcome.kind}: {outcome.said}", flush=True)
            survived, lost = sum(one.survived for one in outcomes), sum(one.rows_lost for one in outcomes)
            print(f"{name}: {survived} of {len(outcomes)} survived, {lost} rows lost, {time.monotonic() - began:.0f} s")
            results[name] = {"survived": survived, "of": len(outcomes), "asked": count, "rows_lost": lost}
            results[name]["outcomes"] = [dataclasses.asdict(one) for one in outcomes]  # type: ignore[assignment]
            if parsed.json:
                parsed.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["survived"] < result["asked"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
