"""Runs that are killed and gone on with, and end as one that never was: in the same bits, with every row once."""

import contextlib
import functools
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults import forked
from faults.comparison import differences
from faults.dying import Death
from faults.registry import Outcome, Setting, fault
from faults.same_bits import account, compared

if TYPE_CHECKING:
    from faults.same_bits import Account

COMMON = (
    "trainer=cpu", "plots=false", "trainer.log_every=1 steps", "trainer.validate_every=30 steps", "trainer.threads=1",
)  # fmt: skip
EVERY_7, EVERY_50 = "trainer.checkpoint_every=7 steps", "trainer.checkpoint_every=50 steps"
KINDS = {
    "momentum": ("optimizer=momentum", "optimizer.lr=0.02", EVERY_50, "trainer.max_epochs=12"),
    "Adam, dropout, BatchNorm, augmentation, EMA, plateau, clipping, probes": (
        "model=cnn", "model.channels=[4,8]", "model.dropout=0.3", "optimizer=adam", "optimizer.lr=0.01", "augment=[translate,cutout]",
        "averaging=ema", "schedule=plateau", "schedule.patience=0 validations", "schedule.threshold=0.3", "trainer.clip_norm=1",
        "trainer.probe_every=50 steps", EVERY_7, "trainer.max_epochs=4",
    ),
    "Muon, SWA, accumulation, one cycle": (
        "optimizer=muon", "averaging=swa", "averaging.start=30%", "trainer.accumulate=2", "schedule=one_cycle", EVERY_50,
        "trainer.max_epochs=6",
    ),
    "SAM, mixup, label smoothing": (
        "optimizer=momentum", "wrapper=sam", "augment=[mixup]", "loss.label_smoothing=0.1", "param_groups=no_decay", EVERY_7,
        "trainer.max_epochs=4",
    ),
    "RAdam, lookahead, restarts, fp64": (
        "optimizer=radam", "wrapper=lookahead", "schedule=cosine_restarts", "trainer.precision=fp64", EVERY_50, "trainer.max_epochs=6",
    ),
    "schedule-free AdamW, dropout": (
        "optimizer=schedule_free_adamw", "schedule=constant", "schedule.warmup=20 steps", "model=mlp", "model.dropout=0.3", EVERY_7,
        "trainer.max_epochs=4",
    ),
    "streamed pictures, two workers, flips, Lion": (
        "data=image_folder", "data.stream=always", "data.workers=2", "data.batch_size=8", "model=lenet",
        "optimizer=lion", "optimizer.lr=0.001", "augment=[flip,crop]", EVERY_7, "trainer.max_epochs=null", "trainer.max_steps=90",
    ),
}  # fmt: skip
"""Kinds of runs, by what their continuation has to get right."""
IN_TIME = 10.0
"""Seconds from SIGTERM to the checkpoint."""
LOOK = 0.01
"""Seconds between two looks at how far a run is: more looks would take its processor."""


@fault(full=100)
def sigkill(setting: Setting, number: int) -> Outcome:
    """SIGKILL at a random moment of a run, up to three times, resumed: the same bits, every row once"""
    draw, place = setting.draw(number), setting.place(number)
    kind = list(KINDS)[number % len(KINDS)]
    wanted, changes = _never_killed(setting.folder, kind)
    uri = f"sqlite:///{setting.folder}/mlflow.db" if number % 10 == 4 else None  # every tenth with a store
    fresh = number % 20 == 19
    arguments = _arguments(setting.folder, kind, uri)
    moments = []
    for _ in range(draw.choice([1, 1, 2, 3])):
        death = Death(draw.randint(1, changes), draw.random() < 0.5) if not fresh and draw.random() < 0.3 else None
        process = forked.start(place, *arguments, fresh=fresh, death=death)
        moments.append(f"{death}" if death else _at_a_moment(process, place, draw, wanted["steps"]))
        if death is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            if draw.random() < 0.5:
                _kill_shipper(place)  # as when the machine stops
        forked.ended(process)
        if _runs_in(place):
            # One that is killed before its configuration is written is no run yet.
            arguments = ("resume=latest",)
    if status := forked.run(place, *arguments, fresh=fresh):
        return Outcome(kind, False, f"{', '.join(moments)}: exit status {status}: {_err(place)}")
    return _judged(kind, place, wanted, uri, f"killed {', '.join(moments)}")


@fault(full=50)
def sigterm(setting: Setting, number: int) -> Outcome:
    """SIGTERM at a random moment of a run: a checkpoint in ten seconds, KILLED in MLflow, 143; resumed: the same bits"""
    from gradlab.checkpoints import newest_checkpoint

    draw, place = setting.draw(number), setting.place(number)
    kind = list(KINDS)[number % len(KINDS)]
    wanted, _ = _never_killed(setting.folder, kind)
    uri = f"sqlite:///{setting.folder}/mlflow.db"
    arguments = _arguments(
        setting.folder, kind, None if number % 5 else uri
    )  # else by `gradlab sync`, which is the same replay
    process = forked.start(place, *arguments)
    moment = _at_a_moment(process, place, draw, wanted["steps"])
    told, said = time.time(), []
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    status = forked.ended(process)
    if status == -signal.SIGTERM:  # before or after the run itself; for a shell that is 143, too
        status = 143
    if not _runs_in(place) and status == 143:  # it came before there was a run
        if again := forked.run(place, *arguments):
            return Outcome(kind, False, f"{moment}: exit status {again}: {_err(place)}")
        return _judged(kind, place, wanted, uri, f"told {moment}")
    (run,) = _runs_in(place)
    ends = [record["status"] for record in _records(run) if record["kind"] == "end"]
    result = json.loads((run / "result.json").read_text()) if (run / "result.json").exists() else {}
    if result.get("status") == "finished":  # it came when all was done
        said += [] if status in (0, 143) and ends == ["FINISHED"] else [f"{status}, {ends} of a finished run"]
        _synced(place, run, uri)  # it may have come while the run waited for its shipper, which goes on by itself
    else:
        if (status, ends, result.get("status")) != (143, ["KILLED"], "killed"):
            said.append(f"exit status {status}, {ends}, {result.get('status')}")
        checkpoint = newest_checkpoint(run / "checkpoints")
        if (checkpoint.step if checkpoint else 0) < max(_last_step(place), result.get("steps", 0)):
            said.append(f"checkpoint {checkpoint and checkpoint.step}, {_last_step(place)} steps in the journal")
        if checkpoint and checkpoint.path.stat().st_mtime - told > IN_TIME:
            said.append(f"{checkpoint.path.stat().st_mtime - told:.1f} s until the checkpoint")
        _synced(place, run, uri)
        said += forked.called(lambda: differences(run, uri))[0]  # that it is KILLED there is among it
    if resumed := forked.run(place, "resume=latest"):
        return Outcome(kind, False, f"{moment}: exit status {resumed}: {_err(place)}")
    return _judged(kind, place, wanted, uri, f"told {moment}", said)


def _judged(
    kind: str, place: Path, wanted: "Account", uri: str | None, moments: str, said: Sequence[str] = ()
) -> Outcome:
    """Whether the run in ``place`` ended as the one that was never killed, in its store, too."""
    (run,) = _runs_in(place)
    differing, lost, doubled = compared(account(run), wanted)
    if uri is not None:
        _synced(place, run, uri)
        in_store, missing = forked.called(lambda: differences(run, uri))
        differing, lost = [*differing, *in_store], lost + missing
    wrong = "; ".join([*said, *differing])
    return Outcome(kind, not wrong, f"{moments}: {wrong or 'same bits, same rows'}", lost, doubled)


def _synced(place: Path, run: Path, uri: str) -> None:
    """What the store lacks is shipped: all of a run without tracking, and what a store that was too busy did not take in time."""
    out = (place / "out.txt").read_text()
    if "rows pending" in out or "MLflow run" not in out:
        forked.run(place, "sync", str(run), "--uri", uri, program="gradlab")


@functools.cache
def _never_killed(folder: Path, kind: str) -> "tuple[Account, int]":
    """What a run of this kind comes to when nothing happens to it, and how often it changes the disk."""
    place = folder / f"never killed {list(KINDS).index(kind)}"
    if status := forked.run(place, *_arguments(folder, kind, None)):
        raise RuntimeError(f"exit status {status}: {_err(place)}")
    return account(*_runs_in(place)), int((place / "changes.txt").read_text())


def _arguments(folder: Path, kind: str, uri: str | None) -> tuple[str, ...]:
    pictures = (
        (f"data.root={_pictures(folder)}", f"data.cache_dir={folder}/cache")
        if "data=image_folder" in KINDS[kind]
        else ()
    )
    return (*COMMON, *KINDS[kind], *pictures, f"tracking.uri={uri}" if uri else "tracking=none")  # fmt: skip


@functools.cache
def _pictures(folder: Path) -> Path:
    """Two classes of sixty small pictures."""
    from PIL import Image

    draw = random.Random(0)
    for name in ("dark", "light"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(60):
            level = draw.randrange(100) + (100 if name == "light" else 0)
            pixels = bytes(level + draw.randrange(50) for _ in range(3 * 16 * 16))
            Image.frombytes("RGB", (16, 16), pixels).save(folder / "pictures" / name / f"{number}.png")
    return folder / "pictures"


def _at_a_moment(process: int, folder: Path, draw: random.Random, steps: int) -> str:
    """Wait for a moment in the life of a run: somewhere in its training, or anywhere. In words, which."""
    begun = _begun(folder)
    while _begun(folder) == begun and _alive(process):  # a run that is gone on with has rows already
        time.sleep(LOOK)
    target = draw.randint(min(_last_step(folder) + 1, steps), steps) if draw.random() < 0.75 else None
    until = time.monotonic() + (120 if target else draw.uniform(0, 4))
    while time.monotonic() < until and _alive(process):
        if target is not None and _last_step(folder) >= target:
            time.sleep(draw.uniform(0, 0.03))
            break
        time.sleep(LOOK)
    return f"at step {_last_step(folder):,} or later"


def _begun(folder: Path) -> int:
    """How often the run has begun, or been gone on with."""
    return sum(
        journal.read_bytes().count(b'{"kind":"run"') + journal.read_bytes().count(b'{"kind":"resumed"')
        for journal in (folder / "outputs").glob("*/journal.jsonl")
    )


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _kill_shipper(place: Path) -> None:
    for run in _runs_in(place):
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = entry.read_bytes().split(b"\0")
                if b"gradlab.tracking.shipper" in words and str(run).encode() in words:
                    os.kill(int(entry.parent.name), signal.SIGKILL)


def _runs_in(folder: Path) -> list[Path]:
    return [path.parent for path in (folder / "outputs").glob("*/config.yaml")]


def _records(run: Path) -> list[dict[str, Any]]:
    from gradlab.tracking.journal import records

    return [record for record, _ in records(run / "journal.jsonl")]


def _last_step(folder: Path) -> int:
    for run in _runs_in(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            lines = (run / "journal.jsonl").read_bytes()[-4096:].split(b"\n")[1:-1]
            return max(int(json.loads(line)["step"]) for line in lines if b'"metrics"' in line)
    return 0


def _err(place: Path) -> str:
    return (place / "err.txt").read_text()[-500:]
