"""A worker of a sweep: a process that imports once and trains many points.

``python -m gradlab.sweeps.worker`` reads commands from its standard input and writes events to its standard output, one JSON
object to a line. What a point prints goes into ``console.log`` in its folder, because the terminal shows the sweep.

Commands: ``start`` (where to import from; the first line), ``run`` (one point), ``prune`` (end one point after the step it is
in, as hopeless), ``stop`` (end all). Events: ``ready``, ``progress``, ``validated``, ``done``. End of input means that the sweep is over or its process dead: the worker ends
at once, whatever it is doing, so that none is left behind.
"""

import contextlib
import dataclasses
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from omegaconf import OmegaConf

from gradlab.config import build_config
from gradlab.interruption import Interrupted, Interruption
from gradlab.run import Outcome, Place, run
from gradlab.sweeps.identity import flatten
from gradlab.tracking.folder import RunFolder

if TYPE_CHECKING:
    from gradlab.data.datasets import Dataset
    from gradlab.data.datasets.base import Splits

Message = dict[str, Any]
RHYTHM = 0.5
"""Seconds between two ``progress`` events, at least."""


class Commands:
    """The commands of the sweep, read by a thread, because ``stop`` and the end of input must be heard while a point trains."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self._points: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.interruption = Interruption()
        self.point: str | None = None
        self.stopping = False

    def listen(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._lines:
            command = json.loads(line)
            if command["do"] == "stop":
                self.stopping = True
                self.interruption.signum = signal.SIGTERM
            elif command["do"] == "prune":
                if command["point"] == self.point:  # else it has ended meanwhile
                    self.interruption.pruned = command["reason"]
            else:
                self._points.put(command)
        os._exit(0)

    def points(self) -> Iterator[Message]:
        """The points to train, one after the other, each with an interruption of its own."""
        while True:
            command = self._points.get()
            self.interruption, self.point = Interruption(), command["point"]
            if self.stopping:
                self.interruption.signum = signal.SIGTERM
            yield command


class Images:
    """The images of the last dataset that was asked for: the points of a sweep mostly share theirs."""

    def __init__(self) -> None:
        self._of: dict[str, Any] | None = None
        self._splits: Splits | None = None

    def load(self, dataset: "Dataset") -> "Splits":
        values = flatten(dataclasses.asdict(dataset))  # type: ignore[call-overload]
        if self._splits is None or values != self._of:
            self._splits = None  # not two at once
            self._splits, self._of = dataset.load(), values
        return self._splits


def main() -> NoReturn:
    """The process: prepare once, then train what comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The pipes get numbers of their own, so that nothing a point prints or reads can meet them.
    lines, events = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path[:] = json.loads(lines.readline())["path"]
    commands = Commands(lines)
    commands.listen()
    prepare()
    images = Images()
    _tell(events, event="ready")
    for command in commands.points():
        report = progress_report(events, command["point"])
        _tell(events, event="done", **train(command, commands.interruption, images, report))
        gc.collect()  # Lightning's objects refer to each other in circles
    raise AssertionError("points never end")


def prepare() -> None:
    """Import what every run needs, and keep it out of the garbage collector's way."""
    import gradlab.checkpoints
    import gradlab.console
    import gradlab.data.module
    import gradlab.initializers
    import gradlab.trained.network  # noqa: F401

    gc.collect()
    gc.freeze()


def train(command: Message, interruption: Interruption, images: Images, report: Any) -> Message:
    """Train one point; returns what came of it. Nothing that the point does wrong ends the worker, short of its death."""
    began = time.perf_counter()
    folder = RunFolder(Path(command["folder"]))
    outcome: Message
    with _printing_to(folder.console):
        try:
            _as_new()
            # Made for this dataclass, and checked, by the sweep's process already.
            composed: dict[str, Any] = command["config"]
            config = dataclasses.replace(build_config(OmegaConf.create(composed)), run_name=command["name"])
            place = Place(folder, command["parent"], command["point"], interruption, images.load, report)
            outcome = _told(run(config, command["command"], place), interruption)
        except Interrupted:
            outcome = {"status": "killed", "reason": "interrupted", "metrics": {}}
        except BaseException as error:
            with contextlib.suppress(OSError):  # a full disk
                traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            outcome = {"status": "failed", "reason": reason, "metrics": {}}
    return {"point": command["point"], "seconds": time.perf_counter() - began, **outcome}


def _told(outcome: Outcome, interruption: Interruption) -> Message:
    reason = {"killed": "interrupted", "pruned": interruption.pruned}.get(outcome.status)
    return {"status": outcome.status, "reason": reason, "metrics": outcome.metrics}


def _as_new() -> None:
    """Undo what an earlier point may have set in torch for the whole process."""
    import torch

    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def progress_report(events: IO[str], point: str) -> Any:
    """Lightning's callback that tells the sweep how ``point`` gets on."""
    import lightning.pytorch as pl

    class ProgressReport(pl.Callback):
        def __init__(self) -> None:
            self.told = 0.0

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if time.monotonic() - self.told > RHYTHM:
                self.told = time.monotonic()
                val = module.last_val.get("val/accuracy")
                _tell(events, event="progress", step=module.steps_done, steps=module.horizon.total_steps, val=val)

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            if not trainer.sanity_checking and module.divergence is None:
                val, loss = module.last_val["val/accuracy"], module.last_val["val/loss"]
                _tell(events, event="validated", point=point, step=module.steps_done, val=val, loss=loss)

    return ProgressReport()


def _tell(events: IO[str], **content: Any) -> None:
    try:
        events.write(json.dumps(content) + "\n")
    except BrokenPipeError:  # the sweep's process is dead
        os._exit(0)


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """What is printed, also by C code, goes into ``log``; nowhere, where it cannot be written."""
    before = os.dup(1), os.dup(2)
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            os.dup2(before[descriptor - 1], descriptor)
            os.close(before[descriptor - 1])


if __name__ == "__main__":
    main()
