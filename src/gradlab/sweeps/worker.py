"""A worker of a sweep: a process that imports once and trains many points.

``python -m gradlab.sweeps.worker`` reads commands from its standard input and writes events to its standard output, one JSON
object to a line. What a point prints goes into ``console.log`` in its folder, because the terminal shows the sweep.

Commands: ``start`` (where to import from; the first line), ``measure`` (how fast populations of a configuration train), ``run``
(one point, or several as a population), ``prune`` (end one of them soon, as hopeless), ``stop`` (end all after the step that they
are in). Events: ``ready``, ``begun``, ``measured``, ``progress``, ``validated``, ``say`` (a line for the terminal), and for each point ``done``, or ``again`` where it should be trained on its own. End of input means that the sweep is over or its process dead: the worker ends
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from gradlab.config import Config, build_config
from gradlab.errors import is_out_of_memory
from gradlab.interruption import Interrupted, Interruption
from gradlab.record import Place
from gradlab.resume.beginning import Resumption
from gradlab.resume.together import align
from gradlab.resume.which import recorded
from gradlab.run import Outcome, run_together
from gradlab.sweeps.identity import flatten
from gradlab.sweeps.planning import sizes_for
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import metric_rows

if TYPE_CHECKING:
    from gradlab.data.datasets import Dataset
    from gradlab.data.datasets.base import Splits

Message = dict[str, Any]
MEASURING = 1.5
"""Seconds that a measurement may take, about."""
RHYTHM = 0.5
"""Seconds between two ``progress`` events, at least."""


class Commands:
    """The commands of the sweep, read by a thread, because ``stop`` and the end of input must be heard while a point trains."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self._points: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.interruption = Interruption()
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
                self.interruption.pruned[command["point"]] = command["reason"]
            else:
                self._points.put(command)
        os._exit(0)

    def points(self) -> Iterator[Message]:
        """The points to train, one after the other, each with an interruption of its own."""
        while True:
            command = self._points.get()
            self.interruption = Interruption()
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
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # for the job of SLURM that this process may be in
    # The pipes get numbers of their own, so that nothing a point prints or reads can meet them.
    lines, events = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path[:] = json.loads(lines.readline())["path"]
    commands = Commands(lines)
    commands.listen()
    prepare()
    report, images = progress_report(events), Images()
    _tell(events, event="ready")
    for command in commands.points():
        _tell(events, event="begun", points=[point["point"] for point in command.get("points", [])])
        if command["do"] == "measure":
            _tell(events, event="measured", **measure(command, images))
            continue
        short = False
        for event in train(command, commands.interruption, images, report):
            _tell(events, **event)
            short |= event.get("memory", False)
        if short:
            os._exit(
                0
            )  # what a population leaves that did not fit is in pieces: another process begins with all the memory
        report.forget()
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


def train(command: Message, interruption: Interruption, images: Images, report: Any) -> Iterator[Message]:
    """Train the points of a command, at once where their network can be; gives the events that come of it."""
    points: list[Message] = command["points"]
    if len(points) > 1 and (obstacle := _obstacle(points[0]["config"])):
        yield {"event": "say", "line": f"{obstacle}: its points are trained one after the other"}
        for point in points:
            yield from _train_at_once([point], command, interruption, images, report)
    else:
        yield from _train_at_once(points, command, interruption, images, report)


def measure(command: Message, images: Images) -> Message:
    """The paces of a configuration alone and in populations, as far as they are of use for its points; and why it has none,
    if it has none.
    """
    composed = command["config"]
    if obstacle := _obstacle(composed):
        return {"paces": [], "obstacle": obstacle}
    from gradlab import measuring

    try:
        _as_new()
        config = _config(composed)
        splits = images.load(config.data)
        work = command["count"] * config.horizon.total_steps / command["workers"]
        paces = measuring.measure(config, splits, sizes_for(command["count"]), MEASURING, command["memory"], work)
        if config.trainer.speed == "auto" and (compiled := measuring.compiled_pace(config, splits, paces, work)):
            paces.append(compiled)
    except Exception as error:  # its points will say so themselves
        return {"paces": [], "obstacle": f"{type(error).__name__} while it was measured"}
    return {"paces": [dataclasses.asdict(pace) for pace in paces], "obstacle": None}


def _obstacle(composed: dict[str, Any]) -> str | None:
    """Why no population can be made of this network; or None."""
    from gradlab.models.base import build_network
    from gradlab.stacked.network import Unstackable, check_stackable

    config = _config(composed)
    try:
        check_stackable(build_network(config.model, config.spec, config.seed))
    except Unstackable as error:
        return f"model={getattr(config.model, 'arch', config.model.name)} has {error}"
    return None


_BUILT: dict[str, Any] = {}
"""Choices that were made before: points differ in few."""


def _config(composed: dict[str, Any]) -> Config:
    """Made for this dataclass, and checked, by the sweep's process already."""
    return build_config(composed, built=_BUILT)


def _train_at_once(
    points: list[Message], command: Message, interruption: Interruption, images: Images, report: Any
) -> Iterator[Message]:
    """Train points as one run or one population; those that go on, from their checkpoints.

    Nothing that a point does wrong ends the worker, short of its death. What a population does wrong is nobody's fault yet:
    its points are handed back, to be trained one by one.
    """
    began = time.perf_counter()
    folders = [RunFolder(Path(point["folder"])) for point in points]
    together = tuple(point["point"] for point in points) if len(points) > 1 else ()
    settled: set[str] = set()
    outcomes: list[Message]

    def settling(point: str) -> Callable[[Outcome], None]:
        def settle(outcome: Outcome) -> None:
            settled.add(point)
            report.tell(point=point, seconds=time.perf_counter() - began, **_told(outcome))

        return settle

    with _printing_to(folders[0].console):
        try:
            _as_new()
            configs = [dataclasses.replace(_config_of(point), run_name=point["name"]) for point in points]
            resumptions = None
            if any(point["goes_on"] for point in points):
                resumptions = [
                    Resumption(*each) for each in zip(folders, [False] * len(points), configs, configs, strict=True)
                ]
                _tell_of_before(points, folders, align(folders), report)
            places = [
                Place(
                    folder, command["parent"], point["point"], interruption, images.load, report,
                    together=together, settled=settling(point["point"]), plan=point["plan"], steps=point["steps"],
                )
                for folder, point in zip(folders, points, strict=True)
            ]  # fmt: skip
            outcomes = [_told(outcome) for outcome in run_together(configs, command["command"], places, resumptions)]
        except Interrupted:
            outcomes = [{"event": "done", "status": "killed", "reason": "interrupted", "metrics": {}}] * len(points)
        except BaseException as error:
            with contextlib.suppress(OSError):  # a full disk
                traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            outcome: Message = {"event": "done", "status": "failed", "reason": reason, "metrics": {}}
            if len(points) > 1:
                outcome = {"event": "again", "reason": reason, "memory": is_out_of_memory(error)}
            outcomes = [outcome] * len(points)
    seconds = (time.perf_counter() - began) / len(points)
    for point, outcome in zip(points, outcomes, strict=True):
        if point["point"] not in settled:
            yield {"point": point["point"], "seconds": seconds, **outcome}


def _config_of(point: Message) -> Config:
    """The configuration of a point; of one that goes on with the rate that it had found, if it had."""
    config = _config(point["config"])
    return _config(recorded(RunFolder(Path(point["folder"])))) if point["goes_on"] and config.find_lr else config


def _tell_of_before(points: list[Message], folders: list[RunFolder], steps: int, report: Any) -> None:
    """The validations that runs had, up to the step from which they go on, for whoever compares them."""
    for point, folder in zip(points, folders, strict=True):
        for step, row in metric_rows(folder.journal):
            if step <= steps and "val/accuracy" in row and "val/loss" in row:
                val, loss = row["val/accuracy"], row["val/loss"]
                report.tell(event="validated", point=point["point"], step=step, val=val, loss=loss)


def _told(outcome: Outcome) -> Message:
    reason = "interrupted" if outcome.status == "killed" else outcome.reason
    return {"event": "done", "status": outcome.status, "reason": reason, "metrics": outcome.metrics}


def _as_new() -> None:
    """Undo what an earlier point may have set in torch for the whole process."""
    import torch

    if torch.are_deterministic_algorithms_enabled():  # asked first, since setting it imports torch's compiler, 2 s
        torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # blocks of a population's sizes are of little use to the next one


def progress_report(events: IO[str]) -> Any:
    """Lightning's callback that tells the sweep how a point gets on; ``tell`` tells anything else, at any time."""
    from gradlab.lightning import pl

    class ProgressReport(pl.Callback):
        def __init__(self) -> None:
            self.told = 0.0

        def tell(self, **content: Any) -> None:
            _tell(events, **content)

        def forget(self) -> None:
            """Let go of the last training: Lightning hangs methods of its module on every callback, and so all its memory."""
            for name in ("log", "log_dict"):
                vars(self).pop(name, None)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if time.monotonic() - self.told > RHYTHM:
                self.told = time.monotonic()
                found = [learner.ledger.last_val.get("val/accuracy") for learner in module.learners]
                val = max((value for value in found if value is not None), default=None)
                step = max(learner.ledger.steps_done for learner in module.learners)
                steps = module.learners[0].horizon.total_steps
                self.tell(event="progress", step=step, steps=steps, val=val)

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            if trainer.sanity_checking:
                return
            for learner in module.learners:
                ledger = learner.ledger
                if not module.is_over(learner):
                    val, loss = ledger.last_val["val/accuracy"], ledger.last_val["val/loss"]
                    self.tell(event="validated", point=learner.point, step=ledger.steps_done, val=val, loss=loss)

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
