"""The early stopping of a sweep's points: what ``halving`` decides on, taken from points, their folders and events."""

from collections.abc import Sequence

from gradlab.durations import parse_duration
from gradlab.errors import ConfigError
from gradlab.sweeps import identity
from gradlab.sweeps.halving import Halving, rungs
from gradlab.sweeps.record import PRUNED, Point, result_of
from gradlab.sweeps.settings import Launching
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.journal import metric_rows


class EarlyStopping:
    """Knows every point of the sweep, also those that were done when the sweep was resumed."""

    def __init__(self, settings: Launching, folder: SweepFolder) -> None:
        self.settings = settings
        self.folder = folder
        self.halving = Halving(settings.reduction_factor, settings.early_stopping == "halving", settings.judged_by)
        self._known: set[str] = set()

    def add(self, points: Sequence[Point]) -> None:
        """More points; what is done already is read from its run's folder, in the order in which the runs began."""
        new = [point for point in points if point.config is not None and point.id not in self._known]
        for point in new:
            self._known.add(point.id)
            self.halving.add(point.id, setting_of(point), steps_of(point, self.settings))
        for point in sorted((point for point in new if point.done), key=lambda point: point.folder or ""):
            run = RunFolder(self.folder.path / (point.folder or ""))
            validations = [
                (step, values["val/accuracy"], values["val/loss"])
                for step, values in metric_rows(run.journal)
                if "val/accuracy" in values and "val/loss" in values
            ]
            stopped = str(result_of(run).get("reason")) if point.status == PRUNED else None
            self.halving.recall(point.id, validations, point.status == "diverged", stopped)

    def ordered(self, points: Sequence[Point]) -> list[Point]:
        """``points`` so that as many seeds of a setting as judge it train one after the other, then those of the next setting.

        The further seeds come after all of these: most settings have been judged by then.
        """
        seen: dict[str, int] = {}
        rank: dict[str, int] = {}
        for point in points:
            setting = setting_of(point)
            rank[point.id] = seen.get(setting, 0) // self.halving.needed(point.id)
            seen[setting] = seen.get(setting, 0) + 1
        return sorted(points, key=lambda point: rank[point.id])


def stopping(settings: Launching, folder: SweepFolder) -> EarlyStopping | None:
    """The early stopping that was asked for; None where none was."""
    return None if settings.early_stopping == "none" else EarlyStopping(settings, folder)


def check_rungs(points: Sequence[Point], settings: Launching) -> None:
    """Raise where early stopping was asked for and can stop none of ``points``.

    Raises:
        ConfigError: no point is long enough for a rung.
    """
    if settings.early_stopping == "none" or any(steps_of(point, settings) for point in points if point.config):
        return
    longest = max((point.config.horizon.total_steps for point in points if point.config), default=0)
    raise ConfigError(
        f"hydra.launcher.early_stopping={settings.early_stopping} could stop nothing: hydra.launcher.first_rung="
        f"'{settings.first_rung}' must lie within the first 1/{settings.reduction_factor:g} of a run, and the longest here has "
        f"{longest:,} steps. Choose an earlier one, such as hydra.launcher.first_rung=10%."
    )


def setting_of(point: Point) -> str:
    """What the seeds of a point are repetitions of: the hash of its values without the seed."""
    assert point.config is not None
    return identity.identity({key: value for key, value in identity.values_of(point.config).items() if key != "seed"})


def steps_of(point: Point, settings: Launching) -> list[int]:
    """The steps of a point's rungs."""
    assert point.config is not None
    horizon = point.config.horizon
    first = parse_duration(settings.first_rung).exact_steps(horizon)
    return rungs(first, settings.reduction_factor, horizon.total_steps)
