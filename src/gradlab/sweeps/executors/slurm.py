"""Workers that are jobs of SLURM, submitted as arrays by submitit. Jobs and sweep meet in files of the sweep's folder only.

A job has a folder: ``commands.jsonl``, which the sweep appends to and the job reads; ``events.jsonl``, the other way; ``log``;
and ``job.json`` with its number in SLURM. So a sweep may be left and joined again, by a process that reads the same files.
"""

import contextlib
import getpass
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradlab.errors import ConfigError, GradlabError
from gradlab.sweeps.clusters import Slurm
from gradlab.sweeps.executors.job import Job, Lines, append, job_folders
from gradlab.sweeps.record import Point
from gradlab.sweeps.seats import Seat
from gradlab.sweeps.workers import Message, Worker
from gradlab.tracking.folder import write_atomically

RHYTHM = 0.5
"""Seconds between two looks at the jobs' files, at least."""
ASKING = 5.0
"""Seconds between two questions to SLURM about its queue, at least."""
SETTLING = 15.0
"""Seconds for which a job that SLURM does not know (any more) may yet be heard of: queues and file systems lag behind."""
ARRAY = 1000
"""Jobs of one array, at most; SLURM's own bound, MaxArraySize, is 1,001 by default. ``workers`` bounds those of an array that run at
once, so where there are more groups of points, each job takes several."""
REQUEUES = 1_000_000
"""Time-outs after which a job is requeued: any number, as each one brings it further."""


class SlurmWorker(Worker):
    """One job: it is given points, then submitted, and ends when they are done.

    Args:
        folder: of the job.
        parcels: groups of points that it takes.
        job_id: in SLURM; None before it is submitted.
    """

    queues = True

    def __init__(self, folder: Path, parcels: int, job_id: str | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.parcels = parcels
        self.job_id = job_id
        self.ended = False
        self.missing_since: float | None = None
        self.reason = "its job vanished from SLURM's queue"
        self._events = Lines(folder / "events.jsonl")
        self._told = 0

    @property
    def idle(self) -> bool:
        return self.job_id is None and self._told < self.parcels and self.measuring is None

    def send(self, command: Message) -> None:
        if command["do"] == "stop" and not self.ready and self.job_id is not None:
            cancel([self.job_id])  # it waits: nothing of it is worth a checkpoint
        self.folder.mkdir(parents=True, exist_ok=True)
        append(self.folder / "commands.jsonl", command)
        self._told += 1

    def died_of(self) -> str:
        return self.reason

    @property
    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def read(self) -> list[Message]:
        """The events that have come."""
        events = self._events.read()
        for event in events:
            self.ended |= event["event"] == "end"
            if event["event"] == "died":
                self.reason = event["reason"]
        return [event for event in events if event["event"] not in ("end", "died")]

    @property
    def submitted(self) -> bool:
        return self.job_id is not None

    @property
    def to_submit(self) -> bool:
        return self.job_id is None and self._told > 0


class SlurmJobs:
    """See ``Executor``.

    Args:
        settings: of a job.
        at_once: jobs of an array that run at once; None for as many as SLURM lets.
        folder: for the jobs' folders, on a file system that all nodes have.
        name: of the jobs.
    """

    stays = True

    def __init__(self, settings: Slurm, at_once: int | None, folder: Path, name: str) -> None:
        self.settings = settings
        self.at_once = at_once
        self.folder = folder
        self.name = name
        self.machine = f"slurm {settings.partition}"
        self.workers: list[SlurmWorker] = []
        self._asked = self._looked = 0.0
        self._left = False

    @property
    def seat(self) -> Seat:
        return Seat(self.settings.cpus, "gpu" if self.settings.gpus else "")

    @property
    def size(self) -> int:
        return self.at_once or 1

    def memory(self) -> int:
        return int((self.settings.mem_gb or 4 * self.settings.cpus) * (1 << 30))

    def want(self, workers: int) -> None:
        new = workers - sum(bool(worker.points or worker.measuring or worker.idle) for worker in self.workers)
        number = len(job_folders(self.folder)) + sum(not worker.submitted for worker in self.workers)
        parcels = max(self.settings.points_per_job, -(-new // ARRAY))
        for _ in range(-(-new // parcels)):
            number += 1
            self.workers.append(SlurmWorker(self.folder / f"{number:05}", parcels))

    def join(self, points: Sequence[Point], sweep: Path) -> None:
        """Take up the jobs of an earlier process that wait or run yet, with those of ``points`` that they have."""
        by_id = {point.id: point for point in points}
        for path, job_id in known(self.folder, queue()).items():
            worker = SlurmWorker(path, 0, job_id)
            for command in Lines(path / "commands.jsonl").read():
                for told in command.get("points", []):
                    point = by_id.get(told["point"])
                    if point is not None and point.status == "waiting":
                        point.status = "queued"
                        point.folder = str(Path(told["folder"]).relative_to(sweep))
                        worker.points.append(point)
            if worker.points:
                self.workers.append(worker)

    def look(self, seconds: float) -> list[tuple[Worker, list[Message] | None]]:
        self._submit()
        pause = RHYTHM + len(self.workers) / 500  # each has a file to be looked into
        time.sleep(max(0.0, seconds, self._looked + pause - time.monotonic()))
        self._looked = time.monotonic()
        there = None
        if self._looked - self._asked > ASKING:
            self._asked, there = self._looked, queue()
        found: list[tuple[Worker, list[Message] | None]] = []
        for worker in [worker for worker in self.workers if worker.submitted]:
            if events := worker.read():
                found.append((worker, events))
            elif worker.ended or self._is_gone(worker, there):
                worker.astray = not worker.ended
                found.append((worker, None))
        return found

    def _is_gone(self, worker: SlurmWorker, there: set[str] | None) -> bool:
        if there is None:
            return False
        if worker.job_id in there:
            worker.missing_since = None
            return False
        worker.missing_since = worker.missing_since or self._looked
        return self._looked - worker.missing_since > SETTLING

    def _submit(self) -> None:
        """Hand to SLURM what has been given to workers since the last look."""
        new = [worker for worker in self.workers if worker.to_submit]
        for start in range(0, len(new), ARRAY):
            part = new[start : start + ARRAY]
            for worker, job_id in zip(part, self._submitted(part), strict=True):
                worker.job_id = job_id
                write_atomically(worker.folder / "job.json", json.dumps({"id": job_id, "name": self.name}) + "\n")

    def _submitted(self, workers: list[SlurmWorker]) -> list[str]:
        import submitit

        log = self.folder / "submitit"
        options = self.settings.options or {}
        executor = submitit.SlurmExecutor(log, max_num_timeout=REQUEUES)
        executor.update_parameters(
            job_name=self.name,
            time=self.settings.time,
            cpus_per_task=self.settings.cpus,
            signal_delay_s=self.settings.signal_seconds,
            additional_parameters={"requeue": True, "open_mode": "append", **options},
            **{"array_parallelism": self.at_once} if self.at_once else {"array_parallelism": ARRAY},
            **{key: value for key, value in asked(self.settings).items() if value is not None},
        )
        jobs = [Job(worker.folder, self.settings.cpus, bool(self.settings.gpus), list(sys.path)) for worker in workers]
        try:
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise GradlabError(f"SLURM takes no jobs: {' '.join(str(error).split())[:500]}") from error
        return [str(job.job_id) for job in submitted]

    def drop(self, worker: Worker) -> None:
        assert isinstance(worker, SlurmWorker)
        self.workers.remove(worker)
        if worker.job_id is not None and not worker.ended:
            cancel([worker.job_id])

    def leave(self) -> str:
        """Let the jobs go on without this process; returns how to end them, too."""
        self.workers, self._left = [], True
        return f"Its jobs go on without this command. To end them, too: scancel --name={self.name}"

    def close(self) -> None:
        for worker in list(self.workers):
            self.drop(worker)
        if not self._left:  # jobs that wait begin with what is in there
            shutil.rmtree(self.folder / "submitit", ignore_errors=True)


def asked(settings: Slurm) -> dict[str, Any]:
    """What a job asks for, by submitit's names."""
    return {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "gpus_per_node": settings.gpus or None,
        "mem": None if settings.mem_gb is None else f"{settings.mem_gb * 1024:.0f}M",
    }


def check(settings: Slurm) -> None:
    """Ask SLURM whether it would take such a job; nothing is submitted.

    Raises:
        ConfigError: it would not, there is no SLURM here, or submitit is not installed.
    """
    if find_spec("submitit") is None:
        raise ConfigError("hydra.launcher.executor=slurm needs submitit: pip install 'gradlab[slurm]'.")
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra.launcher.executor=slurm needs SLURM's commands, and there is no sbatch here. Start the sweep on a login "
            "node of the cluster, or take executor=local."
        )
    options = {**asked(settings), "time": settings.time, "cpus_per_task": settings.cpus, **(settings.options or {})}
    words = [
        f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
        for key, value in options.items()
        if value not in (None, False)
    ]
    try:
        asked_for = subprocess.run(
            ["sbatch", "--test-only", *words, "--wrap", "true"], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        raise ConfigError("SLURM does not answer: sbatch --test-only took more than a minute.") from None
    if asked_for.returncode:
        said = " ".join(asked_for.stderr.split())[:300]
        raise ConfigError(f"SLURM would not take a job of hydra.launcher.slurm ({' '.join(words)}): {said}")


def known(folder: Path, there: set[str] | None) -> dict[Path, str]:
    """The folders of a sweep's jobs, and their numbers in SLURM: those that are ``there``, or all where that is not known."""
    ids = {path: str(json.loads((path / "job.json").read_text())["id"]) for path in job_folders(folder)}
    return {path: job_id for path, job_id in ids.items() if there is None or job_id in there}


def alive(folder: Path) -> list[str]:
    """The numbers of a sweep's jobs that certainly wait or run."""
    there = queue()
    return [] if there is None else list(known(folder, there).values())


def queue() -> set[str] | None:
    """The jobs of this user that wait or run; None where SLURM does not say."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i", "--user", getpass.getuser()],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        if told.returncode == 0:
            return set(told.stdout.split())
    return None


def cancel(jobs: list[str]) -> None:
    """Have SLURM end jobs; those that have ended are no matter."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scancel", *jobs], capture_output=True, timeout=30)
