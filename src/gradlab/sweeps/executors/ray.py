"""Workers on the nodes of a Ray cluster: an actor on each, which holds a worker process there. Written for Ray 2.60."""

import contextlib
import io
import shutil
import socket
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradlab.errors import ConfigError, GradlabError
from gradlab.sweeps.clusters import Ray
from gradlab.sweeps.executors.node import Node
from gradlab.sweeps.record import Point
from gradlab.sweeps.seats import Seat
from gradlab.sweeps.workers import Message, Worker

WAITING = 0.1
"""Seconds that a node waits for events before it answers that there are none."""
KNOCKING = 10.0
"""Seconds in which the head of a cluster must answer; Ray itself tries for many minutes."""
COUNTING = 5.0
"""Seconds between two looks at how large the cluster is."""


def _knock(address: str) -> None:
    """Raise ``OSError`` where nobody answers at ``host:port``; of other kinds of address Ray knows more."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), KNOCKING).close()


class RayWorker(Worker):
    """A worker on some node: one that there is room on, or will be.

    Args:
        actor: the handle of its ``Node``.
        sweep: folder of the sweep.
    """

    queues = True

    def __init__(self, actor: Any, sweep: Path) -> None:
        super().__init__()
        self.actor = actor
        self.sweep = sweep
        self.asked: Any = None
        self.reason = "its worker stopped answering"

    def send(self, command: Message) -> None:
        self.actor.send.remote(command)

    def died_of(self) -> str:
        return self.reason

    @property
    def last_words(self) -> str:
        return ""

    def take(self, events: list[Message]) -> list[Message] | None:
        """What a node has told; its worker's death is None. Runs that were made on the node are put into their folders."""
        for event in events:
            if event["event"] == "died":
                self.reason = event["reason"]
                return None
            if (archive := event.pop("archive", None)) is not None:
                point = next(point for point in self.points if point.id == event["point"])
                assert point.folder is not None
                unpack(archive, event.pop("made_in"), self.sweep / point.folder)
        return events


class RayNodes:
    """See ``Executor``. Where a node sees the sweep's folder, runs are written there; elsewhere they are fetched as they end.

    Args:
        settings: of a worker.
        at_most: workers; None for as many as the cluster has room for, also when it grows.
        sweep: folder of the sweep.
        identity: of the sweep.
        imports: modules of the user's that points need.
    """

    machine = "ray"
    stays = False

    def __init__(self, settings: Ray, at_most: int | None, sweep: Path, identity: str, imports: Sequence[str]) -> None:
        import ray

        self.settings = settings
        self.at_most = at_most
        self.sweep = sweep
        self.identity = identity
        self.workers: list[RayWorker] = []
        self._code = tempfile.TemporaryDirectory(prefix="gradlab-code-")
        stage(Path(self._code.name), imports)
        try:
            if settings.address:
                _knock(settings.address)
            ray.init(
                address=settings.address,
                runtime_env={"working_dir": self._code.name},
                configure_logging=False,
                log_to_driver=False,
                **{} if settings.address else {"include_dashboard": False},
            )
        except Exception as error:  # of many kinds, by what is wrong with the address, the token or the versions
            raise GradlabError(f"Ray cannot be reached or started: {' '.join(str(error).split())[:500]}") from error
        self._ray = ray
        options: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "max_restarts": 0}
        self._kind = ray.remote(**options, max_concurrency=4, resources=settings.resources or {})(Node)
        self._room, self._counted = 1, 0.0
        self._count()

    def _count(self) -> None:
        """See how many workers the cluster has room for."""
        if time.monotonic() - self._counted < COUNTING and self._counted:
            return
        self._counted = time.monotonic()
        have, settings = self._ray.cluster_resources(), self.settings
        needs = {"CPU": settings.cpus, "GPU": settings.gpus, **(settings.resources or {})}
        self._room = max(1, min(int(have.get(kind, 0) / amount) for kind, amount in needs.items() if amount))

    @property
    def seat(self) -> Seat:
        return Seat(self.settings.cpus, "gpu" if self.settings.gpus else "")

    @property
    def size(self) -> int:
        return self.at_most or self._room

    def memory(self) -> int:
        return 4 * self.settings.cpus * (1 << 30)

    def want(self, workers: int) -> None:
        self._count()
        for _ in range(min(workers, self.size) - len(self.workers)):
            actor = self._kind.remote(
                self.settings.cpus, bool(self.settings.gpus), str(self.sweep), self.identity, self.settings.scratch,
                str(Path.cwd()), list(sys.path),
            )  # fmt: skip
            self.workers.append(RayWorker(actor, self.sweep))

    def join(self, points: Sequence[Point], sweep: Path) -> None:
        """Nothing: its workers end with the process that started them."""

    def look(self, seconds: float) -> list[tuple[Worker, list[Message] | None]]:
        if not self.workers:
            time.sleep(seconds)
            return []
        for worker in self.workers:
            worker.asked = worker.asked or worker.actor.read.remote(WAITING)
        by_answer = {worker.asked: worker for worker in self.workers}
        answered, _ = self._ray.wait(list(by_answer), num_returns=1, timeout=seconds)
        if answered:  # and whoever else has answered by now
            answered, _ = self._ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        found: list[tuple[Worker, list[Message] | None]] = []
        for answer in answered:
            worker = by_answer[answer]
            worker.asked = None
            try:
                events = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                worker.astray = True
                worker.reason = f"its node or its actor there died ({_first_line(error)})"
                found.append((worker, None))
                continue
            taken = worker.take(events)
            if taken or taken is None:
                found.append((worker, taken))
        return found

    def drop(self, worker: Worker) -> None:
        assert isinstance(worker, RayWorker)
        self.workers.remove(worker)
        with contextlib.suppress(Exception):  # it is dead already
            self._ray.kill(worker.actor)

    def leave(self) -> str:
        raise NotImplementedError("workers of Ray end with the sweep's process")

    def close(self) -> None:
        for worker in list(self.workers):
            self.drop(worker)
        self._ray.shutdown()
        self._code.cleanup()


def check() -> None:
    """Raise ``ConfigError`` where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError("hydra.launcher.executor=ray needs Ray: pip install 'gradlab[ray]'.")


def stage(folder: Path, imports: Sequence[str]) -> None:
    """Copy what nodes need of the code: this package, and the modules of the user's that are not of an installed package."""
    import gradlab

    for name in ("gradlab", *dict.fromkeys(module.partition(".")[0] for module in imports)):
        file = Path(gradlab.__file__ if name == "gradlab" else sys.modules[name].__file__ or "")
        if "site-packages" in file.parts:
            continue
        if file.name == "__init__.py":
            shutil.copytree(file.parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif file.is_file():
            shutil.copy(file, folder / file.name)


def unpack(archive: bytes, made_in: str, folder: Path) -> None:
    """Put the files of a run that was made in another folder into its own; the journal last, because with it the run is there
    for all others.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        names = sorted(packed.namelist(), key=lambda name: name == "journal.jsonl")
        for name in names:
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise GradlabError(f"A node sent a file that lies outside of its run's folder: {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            content = packed.read(name)
            if name == "journal.jsonl":
                content = content.replace(made_in.encode(), str(folder).encode())  # it says where the run is
            path.write_bytes(content)
            path.chmod(0o600)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
