"""The disk is full: while training, while a checkpoint is written, while the journal is."""

import contextlib
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from faults.commands import QUICK, clean, last_lines, result_of, run_in, start
from faults.registry import Outcome, Setting, fault
from gradlab.checkpoints import load_checkpoint
from gradlab.errors import CheckpointError

KINDS = {"training": range(0, 100_000), "checkpointing": range(120_000, 250_000), "journalling": range(0, 1)}
"""Bytes that are left of the disk once it is filled. A checkpoint of the model here has 330,000."""
SIZE = 24 * 2**20


@fault(full=20)
def disk(setting: Setting, number: int) -> Outcome:
    """disk full during training, checkpointing, journalling: a clean exit that names path and bytes; checkpoints load"""
    folder = setting.place(number)
    with _small_disk(folder / "disk") as place:
        return _fill(list(KINDS)[number % 3], setting.draw(number), folder, place)


def _fill(kind: str, draw: random.Random, folder: Path, place: Path) -> Outcome:
    # The store is beside the run's folder in one half, on a disk with room in the other.
    store = place if draw.random() < 0.5 else folder
    process = start(
        folder, *QUICK, f"output_dir={place}/outputs", "trainer.max_epochs=100000", "trainer.log_every=5 steps",
        f"trainer.checkpoint_every={0.1 if kind == 'journalling' else 0.02} minutes", MLFLOW_TRACKING_URI=f"sqlite:///{store}/mlflow.db",
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(place.glob("outputs/*/checkpoints/last/state.json")):
            break
        time.sleep(0.05)
    if kind != "journalling":  # that one has until the next checkpoint, six seconds from here
        time.sleep(draw.uniform(0, 2))
    left = draw.choice(KINDS[kind])
    with (place / "filler").open("wb", buffering=0) as filler:
        # What the run writes meanwhile counts, too; so the rest is left as it is then.
        while (free := os.statvfs(place).f_bavail * os.statvfs(place).f_frsize) > left:
            try:
                filler.write(bytes(min(free - left, 1 << 20)))
            except OSError:
                break
            if free - left < 4096:
                break
    try:
        _, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Outcome(kind, False, "it trains on, two minutes after the disk was full")
    said = last_lines(err)
    wrong = []
    if process.returncode != 1 or not clean(err):
        wrong.append(f"exit status {process.returncode}: {err[-300:]}")
    if not re.search(rf"[\d,]+ bytes .*{re.escape(str(place))}.* [\d,]+ bytes free", said):
        wrong.append("path or bytes missing")
    run = run_in(place / "outputs")
    if result_of(run).get("status") not in ("failed", None):
        wrong.append(f"result: {result_of(run).get('status')}")
    if not any(_loads(run / "checkpoints" / name) for name in ("last", "last.previous")):
        wrong.append("no checkpoint loads")
    if list(run.glob("checkpoints/.*.tmp")):
        wrong.append("a part of a checkpoint was left")
    return Outcome(kind, not wrong, f"{'; '.join(wrong)}: {said}" if wrong else said)


def _loads(checkpoint: Path) -> bool:
    try:
        load_checkpoint(checkpoint)
    except CheckpointError:
        return False
    return True


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own, in memory. Mounting takes the superuser."""
    place.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"needs to mount a small file system, which this user may not: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
