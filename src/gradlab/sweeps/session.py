"""One sweep, top to bottom: points, what is done already, workers, the verdict, the record."""

import contextlib
import dataclasses
import json
import secrets
import shlex
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from gradlab import environment
from gradlab.config import AXES, Config
from gradlab.errors import ConfigError, GradlabError
from gradlab.interruption import Interrupted
from gradlab.record import about_process, flat
from gradlab.settings import MLflow, Tracking, store_options
from gradlab.sweeps import identity, resuming
from gradlab.sweeps.composition import Explain, compose_all
from gradlab.sweeps.execution import Execution
from gradlab.sweeps.executors import executor, places
from gradlab.sweeps.nursery import Nursery, foresee
from gradlab.sweeps.plans import pinned
from gradlab.sweeps.record import DONE, PRUNED, Point, SweepRecord, lock, restore, result_of
from gradlab.sweeps.seats import Seat, gpus_here
from gradlab.sweeps.settings import Launching
from gradlab.sweeps.shipping import SweepShipper
from gradlab.sweeps.stopping import check_rungs, stopping
from gradlab.sweeps.table import Table
from gradlab.tracking.ending import ENDS
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal, records


class Session:
    """The sweep of one process, from its first points to its end.

    Args:
        command: the command line, for the record.
        explain: one message for an error of Hydra's.
    """

    def __init__(self, command: list[str], explain: Explain) -> None:
        self.command = command
        self.explain = explain
        self.console = Console()
        self._record: SweepRecord | None = None
        self._began = time.monotonic()
        self._notes: list[str] = []
        # Set with the record, by _begin.
        self._lock: IO[str]
        self._journal: Journal
        self._parent: str
        self._shipper: SweepShipper | None = None
        self._execution: Execution | None = None
        self._nursery: Nursery | None = None

    # ------------------------------------------------------------------ points

    def launch(
        self, loader: Any, master: DictConfig, points: Sequence[list[str]], settings: Launching
    ) -> list[float | None]:
        """Run ``points`` (overrides) unless they are done; returns their best validation accuracies. Raises what ``run`` does."""
        return [self._accuracy(point) for point in self.run(loader, master, points, settings)]

    def run(self, loader: Any, master: DictConfig, points: Sequence[list[str]], settings: Launching) -> list[Point]:
        """Run ``points`` (overrides) unless they are done; returns what they came to.

        Raises:
            ConfigError: points are impossible; nothing has been made.
            Interrupted: by a signal; running points have ended with a checkpoint.
            GradlabError: a point failed and ``fail_fast`` is set, or workers cannot be started.
        """
        if self._execution is None:
            self._nursery = foresee(settings, len(points))
        try:
            configs, seats, ids, new, swept = self._composed(loader, master, points, settings)
        except BaseException:
            self._forget_nursery()
            raise
        if self._record is None:
            output_dir = Path(configs[0].output_dir).expanduser()
            resume = bool(OmegaConf.select(master, "resume"))
            earlier = resuming.find(output_dir, {point.id for point in new}) if resume else None
            self._begin(resume, earlier, configs, new, swept, settings)
        else:
            self._add(new, swept, settings)
        self._execute(settings, seats)
        assert self._record is not None
        by_id = {point.id: point for point in self._record.points}
        return [by_id[one] for one in ids]

    def begin_search(
        self, loader: Any, master: DictConfig, probes: Sequence[list[str]], settings: Launching, search: dict[str, Any]
    ) -> SweepRecord:
        """The sweep of a search, without points yet: a new one, or with ``resume=true`` that of the same search.

        Args:
            loader: Hydra's.
            master: the multirun's own configuration.
            probes: overrides of points that between them have every choice that there is; none of them is run.
            settings: of the launcher.
            search: what it is about, for the record. Its ``id`` is completed here by what the probes resolve to.

        Raises:
            ConfigError: probes are impossible; nothing has been made.
        """
        configs, _, ids, _, swept = self._composed(loader, master, probes, settings)
        search = search | {"id": identity.identity({"search": search["id"], "probes": ids})}
        resume = bool(OmegaConf.select(master, "resume"))
        output_dir = Path(configs[0].output_dir).expanduser()
        earlier = resuming.find_search(output_dir, search["id"]) if resume else None
        self._begin(resume, earlier, configs, [], swept, settings, search)
        assert self._record is not None
        return self._record

    def _composed(
        self, loader: Any, master: DictConfig, points: Sequence[list[str]], settings: Launching
    ) -> tuple[list[Config], list[Seat], list[str], list[Point], list[str]]:
        """Configurations, seats, ids, points and swept keys of ``points``, once all is known to be possible."""
        built = compose_all(loader, master, points, self.explain, elsewhere=settings.executor != "local")
        configs = [_without_plots(config, overrides) for overrides, config in built]
        seats = places(settings, configs)
        for config in configs[:1]:
            if config.trainer.name == "cuda" and settings.executor == "local" and not gpus_here():
                raise ConfigError("trainer=cuda was asked for, and CUDA_VISIBLE_DEVICES names no device.")
        ids, new, swept = self._points([overrides for overrides, _ in built], configs)
        check_rungs(new, settings)
        pinned(settings.plan)
        return configs, seats, ids, new, swept

    def _points(self, overrides: list[list[str]], configs: list[Config]) -> tuple[list[str], list[Point], list[str]]:
        """The id of each configuration; the points, one for each id; and the swept keys."""
        values = [identity.values_of(config) for config in configs]
        # With those of earlier batches: what distinguishes a point may be what all of its own batch share.
        before = [identity.values_of(point.config) for point in self._known if point.config]
        said = [*(point.overrides for point in self._known if point.config), *overrides]
        swept = identity.swept_keys([*before, *values], _named(said, values))
        if "optimizer.lr" in swept and any(config.find_lr for config in configs):
            raise ConfigError(
                "find_lr=true chooses optimizer.lr for each point, so a sweep over optimizer.lr would train the same rate again "
                "and again. Take one of the two away."
            )
        names = identity.names([*before, *values], swept)[len(before) :]
        ids = [identity.identity(one) for one in values]
        points: dict[str, Point] = {}
        for one, name, given, config in zip(ids, names, overrides, configs, strict=True):
            points.setdefault(one, Point(one, name or config.name, given, config))
        return ids, list(points.values()), swept

    @property
    def _known(self) -> list[Point]:
        return self._record.points if self._record else []

    def _accuracy(self, point: Point) -> float | None:
        if point.status not in ("finished", "diverged") or point.folder is None or self._record is None:
            return None  # the accuracy of a pruned point is none of a training to the end
        metrics = result_of(RunFolder(self._record.folder.path / point.folder)).get("metrics", {})
        found = metrics.get("best/val_accuracy")
        return None if found is None else float(found)

    # ------------------------------------------------------------------ the record

    def _begin(
        self,
        resume: bool,
        earlier: resuming.Earlier | None,
        configs: list[Config],
        points: list[Point],
        swept: list[str],
        settings: Launching,
        search: dict[str, Any] | None = None,
    ) -> None:
        """The sweep's folder, lock, journal and shipper: new ones, or those of the ``earlier`` sweep that is resumed."""
        first = configs[0]
        output_dir = Path(first.output_dir).expanduser()
        of_what = (
            f"{len(points)} points" if search is None else f"{search['trials']} trials, {search['points']} points,"
        )
        if earlier is not None:
            self._lock = lock(earlier.folder)
            keep_pruned = settings.early_stopping != "none"
            self._record = record = resuming.resumed(earlier, swept, points, keep_pruned)
            record.search = search
            going_on = sum(point.goes_on for point in record.points)
            how = f", and {going_on} go on from their checkpoints" if going_on else ""
            self._say(f"resuming {record.folder.path}: {record.count(*DONE)} of {record.expected} points are done{how}")
        else:
            name = first.run_name or " ".join(_short(key) for key in swept) or first.name
            try:
                self._record = record = SweepRecord.new(output_dir, name, self.command, swept, points)
            except OSError as error:
                raise ConfigError(f"output_dir={first.output_dir} cannot hold a sweep's folder: {error}.") from error
            self._lock = lock(record.folder)
            record.search = search
            new = "no earlier sweep has these points, so all are run: " if resume else ""
            self._say(f"{new}{of_what} in {record.folder.path}")
        record.write()
        self._open_journal(record, first.tracking, [config.composed for config in configs])
        if isinstance(first.tracking, MLflow):
            self._shipper = SweepShipper(record.folder, first.tracking, self._lock)

    def _open_journal(self, record: SweepRecord, tracking: Tracking, configurations: list[dict[str, Any]]) -> None:
        folder = record.folder
        begun = next(records(folder.journal), None) if folder.journal.exists() else None
        self._journal = Journal(folder.journal)
        if begun is not None:
            self._parent = begun[0]["id"]
            self._journal.write("resumed")
            self._journal.write("tags", tags={"gradlab.status": "running"})
            return
        shared = _shared(configurations)
        folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create(shared)))
        self._parent = f"{folder.path.name}.{secrets.token_hex(4)}"
        tags = about_process(folder, self.command)
        tags |= {"gradlab.sweep": record.id, "gradlab.swept": ", ".join(record.swept)}
        experiment = tracking.experiment if isinstance(tracking, MLflow) else "gradlab"
        params = flat(shared)
        self._journal.write("run", id=self._parent, name=record.name, experiment=experiment, params=params, tags=tags)
        self._journal.artifact(folder.config)
        self._journal.write("charts", swept=record.swept)

    def _add(self, points: list[Point], swept: list[str], settings: Launching) -> None:
        """Another batch of a sweeper that decides as it goes."""
        assert self._record is not None
        record = self._record
        known = {point.id: point for point in record.points}
        added = [point for point in points if point.id not in known]
        again = [known[point.id] for point in points if point.id in known and known[point.id].config is None]
        for point in points:
            if point.id in known:
                known[point.id].config = point.config
        record.points += added
        restore(added, record.folder)
        # Those of a search that is resumed.
        resuming.wait([*added, *again], settings.early_stopping != "none", record.folder)
        record.swept += [key for key in swept if key not in record.swept]
        record.write()

    # ------------------------------------------------------------------ running

    def _execute(self, settings: Launching, seats: list[Seat]) -> None:
        assert self._record is not None
        record = self._record
        if self._execution is None:
            known = {point.name: self._accuracy(point) for point in record.points}
            table = Table(self.console, record, {name: found for name, found in known.items() if found is not None})
            self._execution = Execution(
                record,
                self._parent,
                self._journal,
                executor(settings, seats, record, self._lock, self._nursery),
                settings.members,
                pinned(settings.plan),
                settings.fail_fast,
                table,
                stopping(settings, record.folder),
            )  # fmt: skip
        execution = self._execution
        threading.Thread(target=_import_pictures, daemon=True).start()  # half a second, while workers are waited for
        try:
            execution.run()
        finally:
            record.write()
        if execution.signum is not None:
            raise Interrupted(execution.signum)
        failed = [point for point in record.points if point.status == "failed" and point.config]
        if failed and settings.fail_fast:
            raise GradlabError(f"{failed[0].name} failed, and hydra.launcher.fail_fast is set.")

    # ------------------------------------------------------------------ the end

    def finish(self, stopped: str | None = None) -> int:
        """End the sweep, if one was begun; returns 1 where a point failed. ``stopped`` says what ended it early, if anything did.

        Nothing that goes wrong here is worth losing the runs for.
        """
        self._forget_nursery()
        if self._record is None:
            return 0
        record, self._record = self._record, None
        if self._execution is not None:
            self._execution.close()
        failed = [point for point in record.points if point.status == "failed"]
        record.status = {"signal": "killed", "failure": "failed"}.get(stopped or "", "failed" if failed else "finished")
        left = self._execution.left if self._execution is not None else None
        if left is not None:
            record.status = "left"
        lines: list[str] = []
        with contextlib.suppress(OSError):
            record.write()
        if self._shipper is not None:
            self._shipper.hurry()
        if stopped != "signal":
            lines = self._conclude(record)
        with contextlib.suppress(OSError):
            self._journal.artifact(record.folder.record)
            self._journal.write("tags", tags={"gradlab.status": record.status})
            if left is None:
                self._journal.write("end", status=ENDS.get(record.status, "FINISHED"))
        with contextlib.suppress(OSError):
            self._journal.close()
        note = self._shipped(record)
        with contextlib.suppress(OSError):
            record.folder.logs.rmdir()  # each worker removes its own, where that is empty
        self._lock.close()
        self._tell(record, failed, [*lines, *([left] if left else [])], note)
        return int(bool(failed))

    def _forget_nursery(self) -> None:
        """End the one that was foreseen, where no executor has it."""
        if self._nursery is not None and self._execution is None:
            self._nursery.close(at_once=True)
            self._nursery = None

    def _conclude(self, record: SweepRecord) -> list[str]:
        """The verdict: written into the sweep's folder, told in the terminal, and shown on the parent run."""
        from gradlab.analysis.verdict import conclude

        try:
            conclusion = conclude(record.folder.path)
        except Exception as error:
            return [f"No verdict: {type(error).__name__}: {error}"]
        with contextlib.suppress(OSError):
            self._journal.metrics(record.count(*DONE, "failed"), conclusion.metrics)
            self._journal.write("tags", tags=conclusion.tags)
            self._journal.write("charts", swept=record.swept)  # a search may have come to others
            for made, where in (("report.html", ""), ("summary.json", ""), ("plots", "plots")):
                if (record.folder.path / made).exists():
                    self._journal.artifact(record.folder.path / made, where)
        return list(conclusion.lines)

    def _shipped(self, record: SweepRecord) -> str | None:
        """Wait for MLflow; returns a line where it lacks something."""
        if self._shipper is None:
            return None
        shipped = self._shipper.finish(lambda: self._say("the rest is on its way to MLflow …"))
        record.write()  # with the parent's id
        if not shipped.pending:
            return f"see it  {environment.command('ui', *store_options(self._shipper.tracking))}"
        return (
            f"{shipped.pending:,} rows pending: gradlab sync {shlex.quote(str(record.folder.path))}\n({shipped.error})"
        )

    def _tell(self, record: SweepRecord, failed: list[Point], lines: list[str], note: str | None) -> None:
        """The end of the sweep, in the terminal."""
        done = record.count(*DONE)
        left = record.expected - done
        counts = [f"{record.count(kind)} {kind}" for kind in ("diverged", "pruned", "failed") if record.count(kind)]
        seconds = time.monotonic() - self._began
        told = f"{done} done" + (f", {left} left" if left else "") + (f" ({', '.join(counts)})" if counts else "")
        self._say(f"\n{told}, {seconds:,.1f} s")
        for line in [*lines, *self._notes]:
            self._say(line)
        if failed:
            self._say(f"{len(failed)} failed:")
            for point in failed:
                log = record.folder.path / (point.folder or "") / "console.log"
                self._say(f"  {point.name}: {point.reason}" + (f"  (see {log})" if log.is_file() else ""))
        self._say(f"folder  {record.folder.path}")
        if left:
            again = [*self.command, *(["resume=true"] if "resume=true" not in self.command else [])]
            self._say(f"to run what is left:  python {shlex.join(again)}")
        elif record.count(PRUNED) and not record.search:  # of a search, what is pruned has been told to the sampler
            again = [word for word in self.command if not word.startswith("hydra.launcher.early_stopping=")]
            again += ["resume=true"] if "resume=true" not in again else []
            self._say(f"to train the pruned ones to the end, too:  python {shlex.join(again)}")
        if note:
            self._say(note)

    def note(self, lines: Sequence[str]) -> None:
        """Lines to be told with the verdict."""
        self._notes += lines

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _import_pictures() -> None:
    with contextlib.suppress(Exception):  # it is said where they are drawn
        import gradlab.analysis.pictures  # noqa: F401


def _without_plots(config: Config, overrides: list[str]) -> Config:
    """Figures of a run cost a second, so a sweep's runs have them only where somebody asked for them."""
    if any(override.partition("=")[0].lstrip("+") == "plots" for override in overrides):
        return config
    return dataclasses.replace(config, plots=False, composed={**config.composed, "plots": False})


def _named(overrides: list[list[str]], values: list[identity.Values]) -> list[str]:
    """The keys that the points' overrides set to different values: those that the command line sweeps over."""
    given: dict[str, set[str]] = {}
    for one in overrides:
        for override in one:
            key, _, value = override.partition("=")
            given.setdefault(key.lstrip("+~"), set()).add(value)
    keys = [f"{key}.name" if key in AXES else key for key, found in given.items() if len(found) > 1]
    return [key for key in keys if any(key in one for one in values)]


def _short(key: str) -> str:
    return key.removesuffix(".name").split(".")[-1]


def _shared(configurations: list[dict[str, Any]]) -> dict[str, Any]:
    """What all configurations have in common."""
    first, *others = configurations
    shared: dict[str, Any] = {}
    for key, value in first.items():
        if all(key in other and json.dumps(other[key]) == json.dumps(value) for other in others):
            shared[key] = value
        elif isinstance(value, dict) and all(isinstance(other.get(key), dict) for other in others):
            shared[key] = _shared([value, *(other[key] for other in others)])
    return shared
