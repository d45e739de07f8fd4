"""Kills runs and writings of checkpoints, goes on with them, and compares what comes out with what was never killed.

    .venv/bin/python scripts/chaos_resume.py sigkill=100 sigterm=50 saves=1 truncated=200 flipped=200 --json found.json
    .venv/bin/python scripts/chaos_resume.py sigkill=3 --mlflow       with a SQLite store, compared row by row, too

Runs are forked from this process once it has imported what they need: a kill costs seconds. With ``--fresh`` each is a
process of its own. Each fault is a function that yields one ``Outcome`` for each time it was made. Exit status 0 where every one
was survived.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMON = (
    "trainer=cpu", "plots=false", "trainer.log_every=1 steps", "trainer.validate_every=30 steps", "trainer.threads=1",
)  # fmt: skip
KINDS = {
    "rich": (
        "model=cnn", "model.channels=[4,8]", "model.dropout=0.3", "optimizer=adam", "optimizer.lr=0.01", "augment=[translate,cutout]",
        "averaging=ema", "schedule=plateau", "schedule.patience=0 validations", "schedule.threshold=0.3", "trainer.clip_norm=1",
        "trainer.probe_every=50 steps", "trainer.checkpoint_every=7 steps", "trainer.max_epochs=4",
    ),
    "plain": ("optimizer=momentum", "optimizer.lr=0.02", "trainer.checkpoint_every=50 steps", "trainer.max_epochs=12"),
}  # fmt: skip
"""Adam with dropout, BatchNorm, augmentation, an average, plateau and clipping; and a plain one."""
IN_TIME = 10.0
"""Seconds from SIGTERM to the checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """One fault. ``said`` is what went wrong, or what was seen; rows are metric rows of the journal."""

    kind: str
    survived: bool
    said: str
    rows_lost: int = 0
    rows_doubled: int = 0


@dataclass(frozen=True)
class Command:
    """How ``python train.py`` is run in a folder: forked from here, or as a fresh process; tracked by MLflow or not."""

    fresh: bool = False
    mlflow: bool = False

    def start(self, folder: Path, *arguments: str) -> int:
        """Start it; returns the process id. What it prints is in ``out.txt`` and ``err.txt``."""
        folder.mkdir(parents=True, exist_ok=True)
        arguments += (f"tracking.uri=sqlite:///{folder}/mlflow.db",) if self.mlflow else ("tracking=none",)
        words = [str(ROOT / "train.py"), *arguments]
        if self.fresh:
            with (folder / "out.txt").open("a") as out, (folder / "err.txt").open("a") as err:
                process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=out, stderr=err)
                process.returncode = 0  # waited for by its id
                return process.pid
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
            child = os.fork()
        if child:
            return child
        status = 1
        try:
            os.chdir(folder)
            for number, name in ((1, "out.txt"), (2, "err.txt")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(os.fdopen(number, "wb", 0), write_through=True) for number in (1, 2)
            )
            sys.argv = words
            from gradlab.entry import main

            status = main()
        finally:
            os._exit(status)

    def run(self, folder: Path, *arguments: str) -> int:
        """Run it to its end; returns the exit status."""
        return ended(self.start(folder, *arguments))


def ended(process: int) -> int:
    """Wait for a process; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def runs_in(folder: Path) -> list[Path]:
    return [path.parent for path in (folder / "outputs").glob("*/config.yaml")]


# ----------------------------------------------------------------------------- what a run has come to


def account(run: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on whether it was killed."""
    from gradlab.checkpoints import load_checkpoint
    from gradlab.tracking.journal import records

    result = json.loads((run / "result.json").read_text())
    found: dict[str, Any] = {key: result.get(key) for key in ("status", "metrics", "steps", "parameters_sha256")}
    for name in ("last", "best"):
        tensors, state = load_checkpoint(run / "checkpoints" / name)
        found |= {f"{name}: {key}": bytes_of(tensor) for key, tensor in tensors.items()}
        for key in ("tensors_sha256", "journal_bytes", "config", "images", "fingerprint"):
            state.pop(key, None)
        for key in ("training_seconds", "round_seconds"):
            state.get("ledger", {}).pop(key, None)
        found[f"{name}: state"] = state
    found["rows"] = [
        (record["step"], {key: value for key, value in record["values"].items() if not key.startswith("throughput/")})
        for record, _ in records(run / "journal.jsonl")
        if record["kind"] == "metrics"
    ]
    states = run / "model" / "layer_states.csv"
    found["layer states"] = states.read_text() if states.exists() else None
    return found


def bytes_of(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    import torch

    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def compared(kind: str, found: dict[str, Any], wanted: dict[str, Any], said: list[str]) -> Outcome:
    """Whether a run ended as the one that was never killed, with every row once."""
    said = said + [
        f"{key} differs" for key in {**wanted, **found} if key != "rows" and found.get(key) != wanted.get(key)
    ]
    rows, right = ([json.dumps(row) for row in one["rows"]] for one in (found, wanted))
    lost, doubled = Counter(right) - Counter(rows), Counter(rows) - Counter(right)
    if rows != right:
        said.append(f"rows: {lost.total()} missing, {doubled.total()} too many, or in another order")
    return Outcome(kind, not said, "; ".join(said) or "same bits, same rows", lost.total(), doubled.total())


def store_differences(run: Path, folder: Path) -> list[str]:
    """What a SQLite store has otherwise than the journal."""
    from gradlab.tracking.journal import records
    from gradlab.tracking.store import open_client

    client = open_client(f"sqlite:///{folder}/mlflow.db")
    run_id = json.loads((run / "result.json").read_text())["mlflow_run_id"]
    rows: dict[str, Counter[tuple[int, float, int]]] = {}
    for record, _ in records(run / "journal.jsonl"):
        for name, value in record.get("values", {}).items():
            rows.setdefault(name, Counter())[record["step"], float(value), record["time"]] += 1
    said = []
    for name, wanted in rows.items():
        history = client.get_metric_history(run_id, name)
        there = Counter((metric.step, metric.value, metric.timestamp) for metric in history)
        if there != wanted:
            said.append(f"MLflow's {name}: {(wanted - there).total()} missing, {(there - wanted).total()} too many")
    stored = client.get_run(run_id)
    if stored.info.status != "FINISHED" or stored.data.tags.get("gradlab.status") != "finished":
        said.append(f"MLflow says {stored.info.status}, {stored.data.tags.get('gradlab.status')}")
    experiment = stored.info.experiment_id
    if len(client.search_runs([experiment])) != 1:
        said.append("more than one MLflow run")
    return said


# ------------------------------------------------------------------------------------------ killed runs


def references(folder: Path, command: Command) -> dict[str, dict[str, Any]]:
    """What each kind of run comes to when nothing happens to it."""
    found = {}
    for kind, choices in KINDS.items():
        place = folder / f"never killed, {kind}"
        if status := Command(command.fresh).run(place, *COMMON, *choices):
            raise RuntimeError(f"exit status {status}: {(place / 'err.txt').read_text()}")
        found[kind] = account(*runs_in(place))
    return found


def at_a_moment(process: int, folder: Path, draw: random.Random, steps: int) -> str:
    """Wait for a moment in the life of a run: somewhere in its training, or anywhere. In words, which."""
    target = draw.randint(1, steps) if draw.random() < 0.75 else None
    until = time.monotonic() + (120 if target else draw.uniform(0, 4))
    while not runs_in(folder) and alive(process):
        time.sleep(0.002)
    while time.monotonic() < until and alive(process):
        step = last_step(folder)
        if target is not None and step >= target:
            time.sleep(draw.uniform(0, 0.03))
            break
        time.sleep(0.002)
    return f"at step {last_step(folder):,} or later"


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def last_step(folder: Path) -> int:
    for run in runs_in(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            lines = (run / "journal.jsonl").read_bytes().split(b"\n")[:-1]
            return max(int(json.loads(line)["step"]) for line in lines if b'"metrics"' in line)
    return 0


def sigkill(count: int, folder: Path, seed: int, command: Command | None = None) -> Iterator[Outcome]:
    """SIGKILL at a random moment of a run, up to three times, resumed: the same bits, every row once"""
    command = command or Command()
    wanted = references(folder, command)
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        kind = ("rich", "plain")[number % 2]
        place, moments, said = folder / str(number), [], []
        arguments: tuple[str, ...] = (*COMMON, *KINDS[kind])
        for _ in range(draw.choice([1, 1, 2, 3])):
            process = command.start(place, *arguments)
            moments.append(at_a_moment(process, place, draw, wanted[kind]["steps"]))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            ended(process)
            arguments = ("resume=latest",) if runs_in(place) else arguments
        if status := command.run(place, *arguments):
            yield Outcome(kind, False, f"exit status {status}: {(place / 'err.txt').read_text()[-500:]}")
            continue
        (run,) = runs_in(place)
        said += store_differences(run, place) if command.mlflow else []
        yield compared(f"{kind}, {', '.join(moments)}", account(run), wanted[kind], said)
        shutil.rmtree(place)


def sigterm(count: int, folder: Path, seed: int, command: Command | None = None) -> Iterator[Outcome]:
    """SIGTERM at a random moment of a run: a checkpoint in ten seconds, KILLED, 143; resumed: the same bits"""
    from gradlab.checkpoints import newest_checkpoint
    from gradlab.tracking.journal import records

    command = command or Command()
    wanted = references(folder, command)
    for number in range(count):
        draw = random.Random(f"{seed} {number} term")
        kind = ("rich", "plain")[number % 2]
        place, said = folder / str(number), []
        process = command.start(place, *COMMON, *KINDS[kind])
        moment = at_a_moment(process, place, draw, wanted[kind]["steps"])
        told = time.time()
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        status = ended(process)
        (run,) = runs_in(place)
        result = json.loads((run / "result.json").read_text()) if (run / "result.json").exists() else {}
        ends = [record["status"] for record, _ in records(run / "journal.jsonl") if record["kind"] == "end"]
        if result.get("status") == "finished":  # it came when all was done
            said += [] if status in (0, 143) and ends == ["FINISHED"] else [f"{status}, {ends} of a finished run"]
        else:
            checkpoint = newest_checkpoint(run / "checkpoints")
            if (status, ends, result.get("status")) != (143, ["KILLED"], "killed"):
                said.append(f"exit status {status}, {ends}, {result.get('status')}")
            if (checkpoint.step if checkpoint else 0) < max(last_step(place), result.get("steps", 0)):
                said.append(f"checkpoint {checkpoint and checkpoint.step}, {last_step(place)} steps in the journal")
            if checkpoint and checkpoint.path.stat().st_mtime - told > IN_TIME:
                said.append(f"{checkpoint.path.stat().st_mtime - told:.1f} s until the checkpoint")
        if resumed := command.run(place, "resume=latest"):
            yield Outcome(kind, False, f"exit status {resumed}: {(place / 'err.txt').read_text()[-500:]}")
            continue
        said += store_differences(run, place) if command.mlflow else []
        yield compared(f"{kind}, {moment}", account(run), wanted[kind], said)
        shutil.rmtree(place)


# --------------------------------------------------------------------------------------- killed writings


def some_checkpoint(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch

    draws = torch.Generator().manual_seed(number)
    return {"model.weight": torch.randn(64, 64, generator=draws)}, {"step": number, "numbers": [number / 3] * 100}


def save(folder: Path, number: int) -> None:
    from gradlab.checkpoints import save_checkpoint

    save_checkpoint(folder / "last", *some_checkpoint(number))


def die_at(call: int, after: bool) -> Callable[[], int]:
    """From here on this process kills itself at its ``call``-th change of the disk, before it or ``after`` it.

    A write that it dies in has written half. Returns how many there have been.
    """
    made = 0

    def watched(function: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made == call and not after:
                if half:
                    half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **named)
            if made == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))
    opened = Path.open

    def open_watched(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if "w" not in mode:
            return opened(path, mode, *arguments, **named)
        file = opened(path, mode, 0)  # a write is one to the disk, not to a buffer
        write = file.write
        proxy = type("Watched", (), {"__getattr__": lambda self, name: getattr(file, name)})()
        proxy.write = watched(write, lambda content: write(content[: len(content) // 2]))
        return _entered(proxy)

    Path.open = open_watched  # type: ignore[method-assign,assignment]
    return lambda: made


def _entered(proxy: Any) -> Any:
    type(proxy).__enter__ = lambda self: self
    type(proxy).__exit__ = lambda self, *exception: self.close()
    return proxy


def saves(count: int, folder: Path, seed: int, command: Command | None = None) -> Iterator[Outcome]:
    """kill at each write, flush and rename of a save, before and after it, ``count`` times: a whole checkpoint is loaded"""
    from gradlab.checkpoints import clear_temporary, load_checkpoint, newest_checkpoint

    for round_ in range(count):
        call = 0
        while True:
            call += 1
            place = folder / f"{round_} {call}"
            killed = []
            for after in (False, True):
                shutil.rmtree(place, ignore_errors=True)
                for number in (1, 2):
                    save(place, number)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    child = os.fork()
                if not child:
                    die_at(call, after)
                    try:
                        save(place, 3)
                    finally:
                        os._exit(0)
                killed.append(ended(child) == -signal.SIGKILL)
                found = newest_checkpoint(place)
                said = []
                if found is None or found.remark is not None or found.step not in (2, 3):
                    said.append(f"found {found and found.step}, {found and found.remark}")
                else:
                    tensors, state = some_checkpoint(found.step)
                    if bytes_of(found.tensors["model.weight"]) != bytes_of(tensors["model.weight"]):
                        said.append("other tensors")
                    if found.state["numbers"] != state["numbers"]:
                        said.append("another state")
                    save(place, 4)  # and the next writing is not in the way of what was left
                    clear_temporary(place)
                    if load_checkpoint(place / "last")[1]["step"] != 4 or len(list(place.iterdir())) != 2:
                        said.append(f"left: {sorted(path.name for path in place.iterdir())}")
                when = "after" if after else "before"
                if killed[-1]:
                    told = "; ".join(said) or f"that of step {found.step if found else None}"
                    yield Outcome(f"{when} call {call} of a save", not said, told)
            shutil.rmtree(place)
            if not any(killed):
                break


def damaged(
    count: int, folder: Path, seed: int, what: str, change: Callable[[bytearray, random.Random], bytearray]
) -> Iterator[Outcome]:
    from gradlab.checkpoints import STATE, TENSORS, newest_checkpoint

    for number in (1, 2):
        save(folder, number)
    draw = random.Random(f"{seed} {what}")
    for number in range(count):
        file = folder / "last" / (TENSORS, STATE)[number % 2]
        whole = file.read_bytes()
        changed = change(bytearray(whole), draw)
        file.write_bytes(changed)
        found = newest_checkpoint(folder)
        file.write_bytes(whole)
        survived = found is not None and found.step == 1 and found.remark is not None
        yield Outcome(f"{file.name} {what}", survived, (found and found.remark) or "nothing was said")


def truncated(count: int, folder: Path, seed: int, command: Command | None = None) -> Iterator[Outcome]:
    """the newest checkpoint cut off at a random offset: said, and the one before it used"""
    return damaged(count, folder, seed, "cut off", lambda content, draw: content[: draw.randrange(len(content) - 1)])


def flipped(count: int, folder: Path, seed: int, command: Command | None = None) -> Iterator[Outcome]:
    """one bit of the newest checkpoint flipped: said, and the one before it used"""

    def flip(content: bytearray, draw: random.Random) -> bytearray:
        content[draw.randrange(len(content) - 1)] ^= 1 << draw.randrange(8)  # its last byte ends a line
        return content

    return damaged(count, folder, seed, "with a flipped bit", flip)


FAULTS: dict[str, Callable[[int, Path, int, Command | None], Iterator[Outcome]]] = {
    function.__name__: function for function in (sigkill, sigterm, saves, truncated, flipped)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="+", metavar="FAULT=COUNT", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0, help="of moments and places (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="a new Python for every run")
    parser.add_argument("--mlflow", action="store_true", help="track runs in a SQLite store, and compare it")
    parser.add_argument("--folder", type=Path, help="work in here and leave it; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write every outcome there")
    parsed = parser.parse_args()
    import torch

    import gradlab.checkpoints
    import gradlab.console
    import gradlab.data.module
    import gradlab.run  # noqa: F401

    torch.set_num_threads(1)
    command = Command(parsed.fresh, parsed.mlflow)
    results: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        folder = parsed.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradlab-chaos-")))
        for word in parsed.faults:
            name, _, count = word.partition("=")
            if name not in FAULTS or not count.isdigit():
                parser.error(f"'{word}' is no FAULT=COUNT; faults are {', '.join(FAULTS)}")
            place = (folder / name).absolute()
            place.mkdir(parents=True, exist_ok=True)
            outcomes, began = [], time.monotonic()
            for outcome in FAULTS[name](int(count), place, parsed.seed, command):
                outcomes.append(outcome)
                if not outcome.survived or name in ("sigkill", "sigterm"):
                    mark = "survived" if outcome.survived else "NOT SURVIVED"
                    print(f"{name} {len(outcomes)}  {mark}  {outcome.kind}: {outcome.said}", flush=True)
            found = {
                "survived": sum(one.survived for one in outcomes), "of": len(outcomes),
                "rows_lost": sum(one.rows_lost for one in outcomes), "rows_doubled": sum(one.rows_doubled for one in outcomes),
            }  # fmt: skip
            print(f"{name}: {found}, {time.monotonic() - began:.0f} s", flush=True)
            results[name] = {**found, "outcomes": [asdict(one) for one in outcomes]}
            if parsed.json:
                parsed.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["survived"] < result["of"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
