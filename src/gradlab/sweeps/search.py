"""A search from its space to its best trial: Optuna chooses batches of trials, the session runs their points.

A *trial* is one setting, a *point* one training of it: with ``seed=range(3)`` a trial has three, and its value is their mean.
What Optuna is told of a trial:

* all points finished: COMPLETE, with the value;
* one was pruned by early stopping: PRUNED, with the mean of the last validation that all its points have;
* one diverged: PRUNED without a value, which samplers take for worse than any other, and not for an accuracy of 0;
* one failed: FAIL, which says nothing about the setting. It is not counted, and tried again when the search is resumed.

The study is on disk before a point runs, and each batch's randomness is a function of the seed and of how many trials there
are. So a search that was killed goes on as it would have: trials without an end are run (their finished points are not), and
then come those that would have come.
"""

import contextlib
import itertools
import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gradlab.errors import ConfigError, GradlabError
from gradlab.seeds import derive
from gradlab.settings import without_secret
from gradlab.sweeps.record import PRUNED, Point, SweepRecord, result_of
from gradlab.sweeps.searching import Searching
from gradlab.sweeps.session import Session
from gradlab.sweeps.settings import Launching
from gradlab.sweeps.space import Space
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import metric_rows

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
ABOUT = "gradlab"
"""The user attribute of a trial that says what its points came to."""


def run_search(
    session: Session, loader: Any, master: DictConfig, space: Space, launching: Launching, settings: Searching
) -> None:
    """Search ``space`` and say what was found; the verdict over all points is the sweep's own.

    Raises:
        ConfigError: the search is impossible; nothing has been made.
        Interrupted: by a signal; ``resume=true`` goes on.
        GradlabError: the study's storage does not work, or a point failed and ``fail_fast`` is set.
    """
    trials = settings.trials(space)
    _check_options(settings, space)
    asked = {
        "space": space.plain(),
        "sampler": settings.sampler,
        "seed": settings.seed,
        "objective": settings.objective,
    }
    about = {
        "id": json.dumps([asked, settings.options, settings.study_name, settings.storage, space.seeds], default=str),
        **asked,
        "trials": trials,
        "points": trials * space.repetitions,
    }
    record = session.begin_search(loader, master, space.probes(), launching, about)
    study = Study(record, space, settings, resume=bool(OmegaConf.select(master, "resume")))
    with contextlib.closing(study):
        left = trials - study.done
        batch = study.unfinished()
        while batch or left > 0:
            if not batch:
                batch = study.ask(min(left, settings.batch))
            left -= len(batch)
            points = [space.points(study.values_of(trial)) for trial in batch]
            came = iter(session.run(loader, master, [one for of_trial in points for one in of_trial], launching))
            for trial, of_trial in zip(batch, points, strict=True):
                study.tell(trial, list(itertools.islice(came, len(of_trial))))
            batch = []
        session.note(study.conclusion())


class Study:
    """Optuna's study of one search.

    Args:
        record: of the sweep that runs its points.
        space: what is searched.
        settings: of the search.
        resume: whether a study that is there already may be gone on with.

    Raises:
        ConfigError: there is a study of that name already.
        GradlabError: the storage does not work.
    """

    def __init__(self, record: SweepRecord, space: Space, settings: Searching, resume: bool) -> None:
        self.record = record
        self.space = space
        self.settings = settings
        self._asked: set[str] = set()
        with _optuna() as optuna:
            self._optuna = optuna
            self._study = self._open(resume)

    def _open(self, resume: bool) -> Any:
        optuna, storage = self._optuna, self.settings.storage
        url = storage or str(self.record.folder.path / STUDY)
        if "://" not in url:
            url = f"sqlite:///{Path(url).expanduser().absolute()}"
        name = self.settings.study_name or (self.record.id if storage else "search")
        direction = "maximize" if self.settings.objective == "val_accuracy" else "minimize"
        try:
            self._database = database = optuna.storages.RDBStorage(url)
            _quicken(database)
            return optuna.create_study(storage=database, study_name=name, direction=direction, load_if_exists=resume)
        except optuna.exceptions.DuplicatedStudyError:
            raise ConfigError(
                f"hydra.sweeper.study_name={name}: {without_secret(url)} has a study of this name. resume=true goes on with "
                "it; another name begins anew."
            ) from None
        except Exception as error:  # whatever the database and the library above it raise
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GradlabError(f"The study in {without_secret(url)} cannot be opened: {first}") from error

    def close(self) -> None:
        """Let the database go: what SQLite keeps beside its file is gone then."""
        self._database.remove_session()
        self._database.engine.dispose()

    # ------------------------------------------------------------------ asking

    @property
    def done(self) -> int:
        """Trials that have come to something."""
        return len(self._trials("COMPLETE", "PRUNED"))

    def unfinished(self) -> "list[optuna.trial.Trial]":
        """Trials that were chosen and have no end, because the search was killed."""
        return [self._with_values(self._optuna.trial.Trial(self._study, t._trial_id)) for t in self._trials("RUNNING")]

    def ask(self, count: int) -> "list[optuna.trial.Trial]":
        """Choose ``count`` trials, or fewer at the end of a grid."""
        with _optuna():
            number = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = make_sampler(self.settings, derive(self.settings.seed, "search", number) % 2**31)
            for values in itertools.islice(self._first(), count):
                self._study.enqueue_trial(values)
            return [self._with_values(self._study.ask()) for _ in range(count)]

    def _first(self) -> Iterator[dict[str, Any]]:
        """What must be tried before the sampler is asked: a grid's values; what failed in an earlier process."""
        settled = {_key(trial.params) for trial in self._trials("COMPLETE", "PRUNED", "RUNNING")} | self._asked
        if self.settings.sampler == "grid":
            keys = [dimension.key for dimension in self.space.dimensions]
            wanted = [
                dict(zip(keys, values, strict=True))
                for values in itertools.product(*(d.values or [] for d in self.space.dimensions))
            ]
            random.Random(self.settings.seed).shuffle(wanted)  # so that a part of it is a fair part
        else:
            wanted = [trial.params for trial in self._trials("FAIL") if len(trial.params) == len(self.space.dimensions)]
        for values in wanted:
            if _key(values) not in settled:
                settled.add(_key(values))
                yield values

    def _with_values(self, trial: "optuna.trial.Trial") -> "optuna.trial.Trial":
        """The trial with a value for every dimension."""
        with _optuna():
            for dimension in self.space.dimensions:
                if dimension.kind == "choice":
                    trial.suggest_categorical(dimension.key, dimension.choices)
                elif dimension.kind == "int":
                    low, high = round(dimension.low), round(dimension.high)
                    trial.suggest_int(dimension.key, low, high, step=round(dimension.step or 1), log=dimension.log)
                else:
                    trial.suggest_float(
                        dimension.key, dimension.low, dimension.high, step=dimension.step, log=dimension.log
                    )
        self._asked.add(_key(trial.params))
        return trial

    def values_of(self, trial: "optuna.trial.Trial") -> dict[str, Any]:
        """The values of a trial's dimensions, by key, as they are trained with: see ``Dimension.rounded``."""
        return {dimension.key: dimension.rounded(trial.params[dimension.key]) for dimension in self.space.dimensions}

    # ------------------------------------------------------------------ telling

    def tell(self, trial: "optuna.trial.Trial", points: Sequence[Point]) -> None:
        """What the points of ``trial`` came to; nothing where one has yet to come to something."""
        states = self._optuna.trial.TrialState
        statuses = [point.status for point in points]
        if not all(point.done or point.status == "failed" for point in points):
            return
        values = [self._value(point) for point in points if point.status == "finished"]
        trial.set_user_attr(
            ABOUT, [{"point": p.id, "status": p.status, "run": p.folder, "reason": p.reason} for p in points]
        )
        value, state = None, states.FAIL
        if "diverged" in statuses or PRUNED in statuses:
            state = states.PRUNED
            if "diverged" not in statuses:
                step, early = self._early([point for point in points if point.status != "failed"])
                if step:
                    trial.report(early, step)
        elif "failed" not in statuses and all(map(math.isfinite, values)):
            value, state = math.fsum(values) / len(values), states.COMPLETE
        with _optuna():
            self._study.tell(trial, value, state)

    def _value(self, point: Point) -> float:
        """The objective of a finished point; NaN where it has none."""
        run = self._run(point)
        if self.settings.objective == "val_accuracy":
            return float(result_of(run).get("metrics", {}).get("best/val_accuracy", math.nan))
        losses = [values["val/loss"] for _, values in metric_rows(run.journal) if "val/loss" in values]
        return min((loss for loss in losses if math.isfinite(loss)), default=math.nan)

    def _early(self, points: Sequence[Point]) -> tuple[int, float]:
        """The last step at which all points were validated, and the mean there; step 0 where there is none."""
        name = self.settings.objective.replace("_", "/", 1)
        rows = [
            {
                step: values[name]
                for step, values in metric_rows(self._run(p).journal)
                if math.isfinite(values.get(name, math.nan))
            }
            for p in points
        ]
        shared = set.intersection(*map(set, rows)) if rows else set()
        step = max(shared, default=0)
        return step, math.fsum(of_point[step] for of_point in rows) / len(rows) if step else math.nan

    def _run(self, point: Point) -> RunFolder:
        return RunFolder(self.record.folder.path / (point.folder or ""))

    # ------------------------------------------------------------------ the end

    def conclusion(self) -> list[str]:
        """Lines for the terminal."""
        counts = {"complete": "COMPLETE", "pruned or diverged": "PRUNED", "failed": "FAIL"}
        told = ", ".join(f"{len(found)} {word}" for word, state in counts.items() if (found := self._trials(state)))
        lines = [f"search: {told or 'no trial'}, chosen by {self.settings.sampler}"]
        complete = self._trials("COMPLETE")
        if complete:
            best = self._study.best_trial
            assert best.value is not None
            words = self.settings.objective.replace("val_", "validation ")
            value = f"{best.value:.2%}" if self.settings.objective == "val_accuracy" else f"{best.value:.4g}"
            values = " ".join(f"{key}={written(value)}" for key, value in best.params.items())
            lines.append(f"best trial: number {best.number}, {values}: {words} {value}")
        if importance := self.importance():
            lines.append(
                "importance (PED-ANOVA, for being among the best trials): "
                + ", ".join(f"{key} {share:.0%}" for key, share in importance.items())
            )
        return lines

    def importance(self) -> dict[str, float]:
        """The share of each dimension in what the best trials have in common; empty where there are too few trials."""
        if len(self.space.dimensions) < 2 or len(self._trials("COMPLETE")) < 10:
            return {}
        with _optuna() as optuna, contextlib.suppress(Exception):  # a number that is only there to be looked at
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
            found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
            return {key: share for key, share in found.items() if math.isfinite(share)}
        return {}

    def _trials(self, *states: str) -> "list[optuna.trial.FrozenTrial]":
        wanted = tuple(self._optuna.trial.TrialState[state] for state in states)
        return list(self._study.get_trials(deepcopy=False, states=wanted))


def make_sampler(settings: Searching, seed: int) -> Any:
    """The sampler for one batch. Of a quasi-random sequence the seed is always that of the search: it is one sequence."""
    options: dict[str, Any] = dict(settings.options or {})
    with _optuna() as optuna:
        samplers = optuna.samplers
        if settings.sampler == "tpe":
            return samplers.TPESampler(seed=seed, **options)
        if settings.sampler == "cmaes":
            from gradlab.sweeps.cma import PlainCmaEs

            quiet = {"warn_independent_sampling": False, "consider_pruned_trials": True}
            return PlainCmaEs(seed=seed, **quiet, **options)
        if settings.sampler == "qmc":
            quiet = {"warn_independent_sampling": False, "warn_asynchronous_seeding": False}
            return samplers.QMCSampler(seed=settings.seed, **quiet, **{"scramble": True, **options})
        return samplers.RandomSampler(seed=seed)


def _check_options(settings: Searching, space: Space) -> None:
    """Raise ``ConfigError`` where Optuna does not take an option's value."""
    try:
        make_sampler(settings, 0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hydra.sweeper.options: sampler={settings.sampler} does not take them: {error}.") from error


def _quicken(database: Any) -> None:
    """Have SQLite wait for the disk once in a while and not at every number: a tenth of a second a trial.

    A process that is killed loses nothing by that; a power cut may cost the last trials, which are then chosen again.
    """
    from sqlalchemy import event

    if database.engine.dialect.name == "sqlite":

        @event.listens_for(database.engine, "connect")
        def connected(connection: Any, record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        database.engine.dispose()


def written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


@contextlib.contextmanager
def _optuna() -> "Iterator[Any]":
    """Optuna, without its notes on standard error and its warnings of what is experimental."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield optuna
