"""Runs → settings: a setting is a configuration without its seed, and its seeds are repetitions of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradlab.analysis.metric import Metric
from gradlab.analysis.records import ENDED, LISTED, STOPPED, Run, Value
from gradlab.analysis.statistics import Estimate, estimate, resolution_of

SHORT = {"optimizer.lr": "lr"}
SPEAKING = ("data", "model", "init", "loss", "optimizer", "schedule", "trainer")
"""Axes whose choice says all by itself: 'adam', not 'optimizer=adam'; but 'wrapper=sam', and 'averaging=none'."""


@dataclass(frozen=True)
class Setting:
    """One setting and its runs.

    values: of the swept keys; a key that this setting does not have is missing.
    runs: all, in order of seed, whatever became of them.
    by_seed: the metric of its finished runs; of two runs with one seed the later, because they are no two repetitions.
    repeated: how many finished runs are left out for that.
    estimate: of the metric over seeds; None where no run has finished.
    """

    values: Mapping[str, Value]
    runs: Sequence[Run]
    by_seed: Mapping[int, float]
    repeated: int
    estimate: Estimate | None

    @cached_property
    def name(self) -> str:
        """What distinguishes it: ``adam lr=0.003``."""
        return " ".join(part_of_name(key, value) for key, value in self.values.items()) or "the only setting"

    def count(self, *statuses: str) -> int:
        """How many of its runs have one of these statuses."""
        return sum(run.status in statuses for run in self.runs)

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def diverged(self) -> int:
        return self.count("diverged")

    @property
    def stopped(self) -> int:
        """Runs that the sweep gave up as hopeless."""
        return self.count(*STOPPED)

    @property
    def ended(self) -> int:
        """Runs whose training says something about the setting: finished, diverged or stopped as hopeless."""
        return self.count(*ENDED)

    @property
    def pending(self) -> int:
        """Runs that have yet to say something: those that wait, run, failed or were killed."""
        return len(self.runs) - self.ended

    @property
    def mean(self) -> float:
        return self.estimate.mean if self.estimate else math.nan

    def mean_of(self, metric: str) -> float:
        """The mean over its finished runs of any other metric; NaN where none has it."""
        values = [value for value in (run.metric(metric) for run in self.finished_runs) if math.isfinite(value)]
        return sum(values) / len(values) if values else math.nan

    @property
    def seconds(self) -> float:
        """Mean training time of its finished runs; NaN where unknown."""
        values = [run.seconds for run in self.finished_runs if math.isfinite(run.seconds)]
        return sum(values) / len(values) if values else math.nan

    @property
    def finished_runs(self) -> list[Run]:
        return [run for run in self.runs if run.status == "finished"]


def lost(setting: Setting, statuses: Sequence[str] = ("diverged", *STOPPED)) -> str:
    """``2 of 3 diverged``; empty where every run has finished."""
    counts = [(status, setting.count(status)) for status in statuses]
    return ", ".join(f"{count} of {len(setting.runs)} {status}" for status, count in counts if count)


def is_scattered(settings: Sequence[Setting], key: str) -> bool:
    """Whether hardly two of the settings share a value of the number ``key``, as in a search: there is no line to draw."""
    values = {setting.values[key] for setting in settings if key in setting.values}
    others = {tuple(v for k, v in setting.values.items() if k != key) for setting in settings}
    return len(values) > 2 and len(values) > 0.7 * len(settings) and len(others) > 1


def at_steps(runs: Sequence[Run]) -> str:
    """``at step 82`` or ``between steps 82 and 246``: where those of ``runs`` that were given up ended; empty where unknown."""
    steps = [run.stopped_at for run in runs if run.stopped_at is not None]
    if not steps:
        return ""
    return f"at step {steps[0]:,}" if len(set(steps)) == 1 else f"between steps {min(steps):,} and {max(steps):,}"


@dataclass(frozen=True)
class Grouped:
    """All settings of a comparison.

    swept: the keys that distinguish them, the choices first, then the learning rate, then the rest.
    settings: in the order of the swept values.
    metric: by which they are compared.
    resolution: the smallest difference that any two values of the metric have.
    unplaced: runs of which not enough is known to tell their setting.
    """

    swept: tuple[str, ...]
    settings: Sequence[Setting]
    metric: Metric
    resolution: float
    unplaced: Sequence[Run]

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The swept keys that hold numbers, two or more different ones."""
        return tuple(key for key in self.swept if len({s.values[key] for s in self.settings if _is_number(s, key)}) > 1)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The swept keys that hold names."""
        return tuple(key for key in self.swept if key not in self.numbers)

    def group_of(self, setting: Setting) -> str:
        """The setting's choices, without its numbers: what has one colour and one line in every plot."""
        return " ".join(part_of_name(key, setting.values[key]) for key in self.choices if key in setting.values)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.group_of(setting) for setting in self.settings))


def part_of_name(key: str, value: Value) -> str:
    """``optimizer.name`` and adam as ``adam``; ``optimizer.lr`` and 0.003 as ``lr=0.003``."""
    if is_choice(key) and short(key) in SPEAKING and value != "none":
        return shown(value)
    return f"{short(key)}={shown(value)}"


def is_choice(key: str) -> bool:
    """Whether the key holds the name of an axis' choice, as ``optimizer.name`` does."""
    return key == LISTED or (key.endswith(".name") and key.count(".") == 1)


def short(key: str) -> str:
    """A key without its axis, as in a run's name; of a choice, the axis."""
    if is_choice(key):
        return key.split(".")[0]
    return SHORT.get(key, key.split(".", 1)[-1])


def spoken(key: str) -> str:
    """A key as it stands in a sentence."""
    return "the learning rate" if key == "optimizer.lr" else key


def shown(value: Value) -> str:
    """A value as a person would write it; what cannot be printed, such as a line break in a name, is a space."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value)
    return "".join(c if c.isprintable() else " " for c in value)


def _number(value: float) -> str:
    """Six digits at most: 0.003, 1e-05, 10000."""
    text = f"{value:.6g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def group(runs: Sequence[Run], metric: Metric) -> Grouped:
    """The settings that ``runs`` are repetitions of."""
    swept = swept_keys(runs)
    placed: dict[tuple[tuple[str, Value], ...], list[Run]] = {}
    unplaced = []
    for run in runs:
        if not _is_known(run) and any(key not in run.config for key in swept):
            unplaced.append(run)  # a point that never began, and its overrides do not name all that was swept
            continue
        key = tuple((name, run.config[name]) for name in swept if name in run.config)
        placed.setdefault(key, []).append(run)
    values = [metric.of(run) for members in placed.values() for run in members]
    resolution = resolution_of([value for value in values if math.isfinite(value)])
    settings = [_setting(dict(key), members, metric, resolution) for key, members in placed.items()]
    settings.sort(key=lambda setting: [_order(setting.values.get(key)) for key in swept])
    return Grouped(swept, settings, metric, resolution, unplaced)


def _setting(values: dict[str, Value], runs: list[Run], metric: Metric, resolution: float) -> Setting:
    by_seed: dict[int, float] = {}
    finished = 0
    unknown = -1  # runs without a seed are taken for repetitions, and share none with any other
    for run in sorted(runs, key=lambda run: run.folder.name if run.folder else ""):
        value = metric.of(run)
        if math.isfinite(value):
            finished += 1
            by_seed[unknown if run.seed is None else run.seed] = value
            unknown -= run.seed is None
    ordered = sorted(runs, key=lambda run: (run.seed is None, run.seed or 0))
    estimated = estimate(list(by_seed.values()), resolution) if by_seed else None
    return Setting(values, ordered, by_seed, finished - len(by_seed), estimated)


def swept_keys(runs: Sequence[Run]) -> tuple[str, ...]:
    """The keys whose value differs between runs, without those that a choice brings along.

    ``optimizer=sgd,adam`` changes ``optimizer.betas`` too, because sgd has none; but whoever knows the optimizer knows
    them, so they distinguish nothing.
    """
    full = [run for run in runs if _is_known(run)]
    seen: dict[str, set[Value]] = {}
    for run in runs:
        for key, value in run.config.items():
            seen.setdefault(key, set()).add(value)
    varied = [key for key in seen if len(seen[key]) > 1 or any(key not in run.config for run in full)]
    swept = [key for key in varied if is_choice(key) or not _follows_from_its_choice(key, runs)]
    if full:  # what only the overrides of points that never began name, such as a choice's own spelling
        swept = [key for key in swept if any(key in run.config for run in full)]
    first = {"optimizer.name": 0, "model.name": 1, "schedule.name": 2, "optimizer.lr": 4}
    return tuple(sorted(swept, key=lambda key: (first.get(key, 3 if is_choice(key) else 5), key)))


def _is_known(run: Run) -> bool:
    """Whether the run's whole configuration is known; of a point that never began there are its overrides."""
    return run.folder is not None or bool(run.metrics)


def _follows_from_its_choice(key: str, runs: Sequence[Run]) -> bool:
    """Whether every choice of the key's axis has one value of it (or none)."""
    axis = key.split(".")[0]
    choice = LISTED if axis == LISTED else f"{axis}.name"
    values: dict[Value, set[object]] = {}
    for run in runs:
        if key in run.config:
            values.setdefault(run.config.get(choice), set()).add(run.config[key])
        elif choice not in run.config and _is_known(run):
            values.setdefault(None, set()).add(...)  # of no choice, to be without it is a value, too
    return all(len(found) == 1 for found in values.values())


def _is_number(setting: Setting, key: str) -> bool:
    return is_number(setting.values.get(key))


def is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then names by the alphabet, then what is missing."""
    if is_number(value):
        assert isinstance(value, int | float)
        return (0, float(value), "")
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))
