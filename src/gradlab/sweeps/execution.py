"""Runs the points of a sweep on its workers, until all are done, too much has gone wrong, or somebody wants it to stop."""

import contextlib
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from types import FrameType

from gradlab.errors import GradlabError
from gradlab.speed import CAPTURED, EAGER
from gradlab.sweeps.executors import Executor
from gradlab.sweeps.grouping import group_of, parcels
from gradlab.sweeps.planning import SPARE, Measured, Plan
from gradlab.sweeps.plans import Plans
from gradlab.sweeps.record import Point, SweepRecord
from gradlab.sweeps.resuming import can_go_on, populations
from gradlab.sweeps.stopping import EarlyStopping
from gradlab.sweeps.table import Table
from gradlab.sweeps.workers import Message, Worker
from gradlab.tracking.ending import end_journal_of_the_dead
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal

DEATHS = 2
"""Workers that one point may cost: it is tried once more, then FAILED."""
STRAYS = 10
"""Machines that may die under one point."""
STARTS = 3
"""Workers in a row that may die before they are ready: then it is no point's fault."""
GRACE = 30.0
"""Seconds for running points to end after a signal; one waits for the end of a step, and writes a checkpoint."""
TICK = 0.2
"""Seconds between two looks at signals, processes and the clock."""


class Execution:
    """The points that wait, and the workers that train them.

    Args:
        record: of the sweep; its points are changed here.
        parent: the id in the sweep's journal.
        journal: of the sweep.
        executor: has the workers.
        population: members of a population; 1 for each point alone, None for what measures fastest.
        pinned: choices by group; see ``plans.pinned``.
        fail_fast: whether the first failed point ends the execution.
        table: told what happens.
        stopping: of hopeless points; or None.
    """

    def __init__(
        self,
        record: SweepRecord,
        parent: str,
        journal: Journal,
        executor: Executor,
        population: int | None,
        pinned: dict[str, Plan],
        fail_fast: bool,
        table: Table,
        stopping: EarlyStopping | None = None,
    ) -> None:
        self.record = record
        self.parent = parent
        self.journal = journal
        self.executor = executor
        self.population = population
        self.fail_fast = fail_fast
        self.table = table
        self.stopping = stopping
        self.signum: int | None = None
        self.left: str | None = None
        self._waiting: deque[list[Point]] = deque()
        self._unplanned: dict[str, list[Point]] = {}
        self.plans = Plans(record.folder, journal, executor.seat, executor.machine, executor.size, pinned)
        self._given_up: list[Point] = []
        self._deaths: dict[str, int] = {}
        self._settled: Counter[str] = Counter()
        """Points by what they have come to; counted anew only as a run begins, since there may be thousands."""
        self._failed_starts = 0
        self._stop_at: float | None = None
        self._signals_to_heed = 0

    def run(self) -> None:
        """Run all points that wait. What came of them is in the points, and in ``signum``; workers stay for other points.

        A signal ends running points; or where the executor's workers stay without this process, it is left: ``left`` then says
        how to end them.

        Raises:
            GradlabError: workers cannot be started at all.
        """
        self.executor.join(self.record.points, self.record.folder.path)
        self._settled = self.record.counts()
        waiting = [point for point in self.record.points if point.status == "waiting" and point.config]
        if self.stopping:
            self.stopping.add(self.record.points)
            waiting = self.stopping.ordered(waiting)
        if not waiting and not any(worker.points for worker in self.executor.workers):
            return
        self._plan(waiting)
        with self._signals(), self.table:
            while self.left is None and (self._left or any(worker.points for worker in self.executor.workers)):
                self._look()
                self.table.update(self.executor.workers)
                self.record.write_in_time()

    def close(self) -> None:
        """Let all workers go."""
        self.executor.close()

    # ------------------------------------------------------------------ what happens

    def _look(self) -> None:
        """Wait for a moment, and deal with all that has happened."""
        if self._signals_to_heed:
            self._signals_to_heed -= 1
            if self.executor.stays:
                self.left = self.executor.leave()
                return
            self.stop()
        for worker, events in self.executor.look(TICK):
            for event in events or []:
                self._heard(worker, event)
            if events is None:
                self._lost(worker)
        if self._stop_at is not None and time.monotonic() > self._stop_at:
            for worker in list(self.executor.workers):
                self._give_up(worker)
        self._want()
        for worker in self.executor.workers:
            while worker.idle and self._assign(worker):
                pass

    def _heard(self, worker: Worker, event: Message) -> None:
        if event["event"] in ("again", "done") and all(point.id != event["point"] for point in worker.points):
            return  # of a worker that was joined, and from before that
        if event["event"] == "begun":
            worker.begun |= set(event["points"])
            for point in worker.points:
                if point.id in worker.begun:
                    point.status = "running"
        elif event["event"] == "ready":
            worker.ready, self._failed_starts = True, 0
        elif event["event"] == "progress":
            worker.said = event
        elif event["event"] == "validated":
            if self.stopping:
                found = self.stopping.halving.validated(event["point"], event["step"], event["val"], event["loss"])
                self._prune(found)
        elif event["event"] == "say":
            self.table.say(event["line"])
        elif event["event"] == "measured":
            self._measured(worker, event)
        elif event["event"] == "again":
            point = self._handed_back(worker, event)
            self._bury(point, "killed", "its population was given up")
            point.status, point.reason = "waiting", event["reason"]
            self._given_up.append(point)
            self._ended(point)
            if not worker.points:
                self._divide(self._given_up, event)
                self._given_up = []
        elif event["event"] == "done":
            point = self._handed_back(worker, event)
            if event["status"] == "killed" and self._stop_at is None:
                self._try_again(point, "somebody sent its worker a signal")  # we have not
            else:
                self._settle(point, event["status"], event["reason"], event["metrics"])

    def _prune(self, hopeless: dict[str, str]) -> None:
        """Have points end, each for its reason."""
        for worker in self.executor.workers:
            for point in worker.points:
                if point.id in hopeless:
                    worker.prune(point, hopeless[point.id])

    @property
    def _left(self) -> bool:
        """Whether anything is to be begun yet."""
        return bool(self._waiting or self._unplanned) and self._stop_at is None

    def _plan(self, points: list[Point]) -> None:
        """Put ``points`` in line: as populations where it is known how large ones are best, or where one has been asked for."""
        for own in populations(points):
            self._waiting.append(own)
            for point in own:
                point.plan = Plan(max(1, len(point.together)), (), "as before").way
        groups: dict[str | None, list[Point]] = {}
        for point in (point for point in points if not point.goes_on):
            groups.setdefault(group_of(point.config) if point.config else None, []).append(point)
        for group, own in groups.items():
            self._plan_group(group, own)

    def _plan_group(self, group: str | None, points: list[Point]) -> None:
        config = points[0].config
        if group is None or len(points) == 1 or (config is not None and config.trainer.speed == "max"):
            self._waiting.extend([point] for point in points)  # no population's steps are compiled
            return
        if self.population is not None:
            self._waiting.extend(self._parcels(points, self.population))
            for point in points:
                point.plan = Plan(self.population, (), "as asked").way
            return
        if self.plans.lacks(group):
            self.table.say(f"hydra.launcher.plan says nothing of {len(points)} points like {points[0].name}")
        if plan := self.plans.known(group, points, self.executor.memory()):
            self._follow(plan, points)
        else:
            self._unplanned[group] = points

    def _measured(self, worker: Worker, event: Message) -> None:
        """A worker knows how fast a group's points are trained."""
        group, worker.measuring = worker.measuring, None
        assert group is not None
        points = self._unplanned.pop(group)
        if event["obstacle"]:
            self.table.say(f"{event['obstacle']}: its {len(points)} points are trained one by one")
            self._waiting.extend([point] for point in points)
            return
        measured = [Measured(**pace) for pace in event["paces"]]
        self._follow(self.plans.measured(group, points, measured, self.executor.memory()), points)

    def _follow(self, plan: Plan, points: list[Point]) -> None:
        """Put the points of a group in line by its plan."""
        made = self._parcels(points, plan.members)
        self._waiting.extend(made)
        steps = CAPTURED if plan.steps == EAGER and self.plans.seat.device else plan.steps
        for point in points:
            point.plan, point.steps = plan.way, steps
        config = points[0].config
        assert config is not None
        parts = f" in {len(made)} population{'s' * (len(made) > 1)}" if plan.members > 1 else ""
        self.table.say(f"{len(points)} points of {config.optimizer_name}{parts}: {plan}")

    def _parcels(self, points: list[Point], size: int) -> list[list[Point]]:
        """``points`` as a worker takes them: those of a group together."""
        groups = [group_of(point.config) if point.config else None for point in points]
        made = parcels(groups, {group: size for group in groups if group}, self.executor.size)
        return [[points[place] for place in parcel] for parcel in made]

    @staticmethod
    def _handed_back(worker: Worker, event: Message) -> Point:
        """The point of an event, which its worker has no more."""
        point = next(point for point in worker.points if point.id == event["point"])
        worker.points.remove(point)
        return point

    def _divide(self, points: list[Point], event: Message) -> None:
        """A population could not be trained: half as many at once where memory was short, else each alone."""
        size = len(points) // 2 if event["memory"] else 1
        made = self._parcels(points, max(1, size))
        self._waiting.extendleft(reversed(made))
        how = f"in populations of {size}" if size > 1 else "one by one"
        self.table.say(f"{points[0].name} and {len(points) - 1} more: {event['reason']}; they are trained {how}")

    def _assign(self, worker: Worker) -> bool:
        """Give an idle worker the next points, or something to measure; returns whether there was anything."""
        being = {other.measuring for other in self.executor.workers}
        group = next((group for group in self._unplanned if group not in being), None)
        if group is not None and self._stop_at is None:
            worker.measure(group, self._unplanned[group], int(SPARE * self.executor.memory()), self.executor.size)
            return True
        while self._waiting and self._stop_at is None:
            points, folders = [], []
            for point in self._waiting.popleft():
                try:
                    folder = self._folder(point)
                except OSError as error:
                    self._settle(point, "failed", f"its folder cannot be made: {error}", {})
                    continue
                point.status, point.reason = "queued" if worker.queues else "running", None
                point.tries += not point.goes_on
                point.folder = str(folder.path.relative_to(self.record.folder.path))
                points.append(point)
                folders.append(folder.path)
                if self.stopping:
                    self.stopping.halving.begun(point.id)
            if points:
                worker.run(points, folders, self.parent, self.record.command)
                for point in points:
                    point.goes_on = False  # whatever comes of it, it is not gone on with once more
                return True
        return False

    def _folder(self, point: Point) -> RunFolder:
        """Where the point's run writes: a new folder, or that of the run that is gone on with."""
        if point.goes_on and point.folder is not None:
            return RunFolder(self.record.folder.path / point.folder)
        return RunFolder.create(self.record.folder.runs, point.name)

    def _lost(self, worker: Worker) -> None:
        """A worker has died: its point is tried once more, and another worker takes its seat."""
        if worker not in self.executor.workers:
            return
        reason, points = worker.died_of(), worker.points
        said = worker.last_words
        self.executor.drop(worker)
        if worker.measuring is not None:  # a network that does not fit, perhaps: each of its points shall say so itself
            alone = self._unplanned.pop(worker.measuring)
            self._waiting.extend([point] for point in alone)
            self.table.say(f"while its pace was measured, {reason}: its {len(alone)} points are trained one by one")
        elif not worker.ready and self._stop_at is None:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise GradlabError(f"The sweep's workers cannot start: {reason}. {said}")
        untouched = [point for point in points if point.id not in worker.begun]
        self._put_back(untouched)
        begun = [point for point in points if point not in untouched]
        if self._stop_at is not None:
            for point in begun:
                self._bury(point, "killed", "interrupted")
                self._settle(point, "killed", "interrupted", {})
            return
        for point in begun:
            point.goes_on = point.folder is not None and can_go_on(RunFolder(self.record.folder.path / point.folder))
            self._bury(point, "killed" if point.goes_on else "failed", reason)
        if len(begun) > 1 and "killed by" in reason:
            # The system, or a library, has ended it for want of memory, as like as not: fewer at once.
            for point in begun:
                point.status, point.reason = "waiting", reason
                self._ended(point)
            self._divide(begun, {"memory": True, "reason": reason})
        else:
            for point in begun:
                self._try_again(point, reason, STRAYS if worker.astray else DEATHS)

    def _try_again(self, point: Point, reason: str, most: int = DEATHS) -> None:
        kind = f"{point.id} {most}"  # of its workers and of their machines, each is counted on its own
        self._deaths[kind] = self._deaths.get(kind, 0) + 1
        if self._deaths[kind] < most:
            point.status, point.reason = "waiting", reason
            self._waiting.appendleft([point])  # alone: it may have been the fault of another member
            how = "gone on with from its checkpoint" if point.goes_on else "tried once more"
            self.table.say(f"{point.name}: {reason}; it is {how}")
        else:
            self._settle(point, "failed", f"{reason}, {'twice' if most == DEATHS else f'{most} times'}", {})
            return
        self._ended(point)

    def _ended(self, point: Point) -> None:
        if self.stopping:
            self._prune(self.stopping.halving.ended(point.id, point.status == "diverged"))

    def _bury(self, point: Point, status: str, reason: str) -> None:
        """End the record of a run whose worker died, which cannot do it itself."""
        assert point.folder is not None
        run = RunFolder(self.record.folder.path / point.folder)
        with contextlib.suppress(OSError):
            if not run.result.exists():
                run.write_result({"status": status, "reason": reason, "point": point.id})
            if run.journal.exists():
                end_journal_of_the_dead(run, reason, status)

    def _settle(self, point: Point, status: str, reason: str | None, metrics: dict[str, float]) -> None:
        point.status, point.reason = status, reason
        self._ended(point)
        self.table.settled(point, metrics)
        self._settled[status] += 1
        counts = {f"sweep/{kind}": self._settled[kind] for kind in ("finished", "diverged", "pruned", "failed")}
        best = self.table.best_accuracy
        with contextlib.suppress(OSError):  # a full disk
            self.journal.metrics(
                sum(counts.values()), {**counts, **({} if best is None else {"sweep/best_val_accuracy": best})}
            )
        if status == "failed" and self.fail_fast:
            self.stop()

    # ------------------------------------------------------------------ workers

    def _put_back(self, points: list[Point]) -> None:
        """Have points wait again whose worker is no more and had not begun them."""
        for point in reversed(points):
            point.status = "waiting"
            run = RunFolder(self.record.folder.path / (point.folder or ""))
            point.goes_on = point.folder is not None and can_go_on(run)
            if not point.goes_on:
                point.tries, point.folder = point.tries - 1, None
                with contextlib.suppress(OSError):
                    run.path.rmdir()
            self._waiting.appendleft([point])

    def _want(self) -> None:
        """Have as many workers as there is anything to do for."""
        if self._left:
            busy = sum(bool(worker.points or worker.measuring) for worker in self.executor.workers)
            todo = len(self._waiting) + sum(len(points) for points in self._unplanned.values())
            self.executor.want(busy + todo)

    def _give_up(self, worker: Worker) -> None:
        self.executor.drop(worker)
        for point in worker.points:
            self._bury(point, "killed", "interrupted")
            self._settle(point, "killed", "interrupted", {})

    # ------------------------------------------------------------------ the end

    def stop(self) -> None:
        """Have every running point end, and begin no other. The second time, end at once."""
        again = self._stop_at is not None
        self._stop_at = time.monotonic() + (0 if again else GRACE)
        for worker in self.executor.workers:
            worker.stop()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            self._signals_to_heed += 1

        before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
