"""From a configuration to a suggestion: a scout over eight decades, then several slower ramps around where the loss climbs."""

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradlab.config import Config
from gradlab.finder.curve import MARGIN, Floats, Reading, completed, points, read, smooth
from gradlab.finder.ramp import RampRun, ramp
from gradlab.interruption import Interruption
from gradlab.tracking.folder import write_atomically

if TYPE_CHECKING:
    from gradlab.data.datasets.base import Splits

SCOUT_STEPS, LOWEST, HIGHEST = 100, 1e-6, 1e2
"""Steps of the scout, and the rates it goes through."""
BELOW, ABOVE = 10**-2.5, 10**0.7
"""The ramps' rates, as multiples of where the scout's loss climbs: it climbs late, because it hurries."""
RAMPS, RAMP_STEPS = 3, 240
"""How many ramps, each from an initialisation of its own, and the steps of each: 75 to a decade."""
TRIAL_STEPS, TRIED_LOWER, MUCH_WORSE = 60, 3.0, 1.5
"""A ramp comes to its high rates with warm moments and a network past its first steps; a training begins with them. So the
suggestion is tried from a cold start, for so many steps, beside one lower by this factor; its loss must not be so many times that."""
VERSION = 1
"""Of the JSON file."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    reading: of the ramps.
    setting: what was searched for, in words.
    configured: the learning rate of the configuration.
    steps: optimizer steps that were made in all.
    seconds: that they took.
    """

    reading: Reading
    setting: str
    configured: float
    steps: int
    seconds: float

    @property
    def suggestion(self) -> float | None:
        """The suggested ``optimizer.lr``, to three digits; None where the curves have none."""
        return None if self.reading.suggestion is None else float(f"{self.reading.suggestion:.3g}")

    @property
    def sure(self) -> bool:
        return self.reading.doubt is None

    def told(self) -> dict[str, Any]:
        """The answer without the curves, for JSON."""
        return {
            "suggestion": self.suggestion,
            "sure": self.sure,
            "doubt": self.reading.doubt,
            "configured": self.configured,
            "votes": list(self.reading.votes),
        }

    def write(self, path: Path) -> None:
        """The answer and the curves, as JSON."""
        reading = self.reading
        curves = {
            "rates": reading.rates.tolist(),
            "losses": reading.losses.tolist(),
            "smoothed": reading.smoothed.tolist(),
        }
        about = {"version": VERSION, "setting": self.setting, "steps": self.steps, "seconds": round(self.seconds, 3)}
        write_atomically(
            path,
            json.dumps({**about, **self.told(), "points": vars(reading.points), "growth": reading.growth, **curves})
            + "\n",
        )


def find(config: Config, load: "Callable[[], Splits]", interruption: Interruption | None = None) -> Found:
    """Search for the learning rate of ``config``.

    The answer belongs to the setting, not to its seed: ramp i starts from the initialisation of seed i whatever the run's is, so
    that all seeds of a setting get the same rate. Nothing of a run is touched: torch's, numpy's and Python's generators are
    left as they were.

    Raises:
        Interrupted: a signal asked for the end.
    """
    began = time.perf_counter()
    with _generators_kept():
        splits = load()
        scout = ramp(config, splits, LOWEST, HIGHEST, SCOUT_STEPS, 0, interruption)
        edge = _edge(completed(scout.losses, SCOUT_STEPS))
        low, high = BELOW * edge, ABOVE * edge
        runs = [ramp(config, splits, low, high, RAMP_STEPS, seed, interruption) for seed in range(RAMPS)]
    rates = np.geomspace(low, high, RAMP_STEPS)
    margin = getattr(config.optimizer, "climb_margin", MARGIN)
    growth = np.stack([_padded(run) for run in runs]) if runs[0].normalised else None
    reading = read(rates, np.stack([completed(run.losses, RAMP_STEPS) for run in runs]), growth, margin)
    if reading.doubt is None and reading.suggestion is not None:
        with _generators_kept():
            trials = [
                [ramp(config, splits, rate, rate, TRIAL_STEPS, seed, interruption) for seed in range(RAMPS)]
                for rate in (reading.suggestion, reading.suggestion / TRIED_LOWER)
            ]
        reading = after_trials(reading, *(np.array([_end(run) for run in those]) for those in trials))
        runs += [run for those in trials for run in those]
    steps = sum(len(run.losses) for run in (scout, *runs))
    model = getattr(config.model, "arch", config.model.name)
    setting = f"{model} on {config.data.name}, {config.optimizer_name}"
    return Found(reading, setting, config.optimizer.lr, steps, time.perf_counter() - began)


def after_trials(reading: Reading, ends: Floats, lower_ends: Floats) -> Reading:
    """``reading``, in doubt where the suggestion fails from a cold start.

    ``ends`` and ``lower_ends``: the loss [ramps] at the end of trials at the suggestion and at the lower rate, seed by seed.
    The guess is then the lower rate.
    """
    assert reading.suggestion is not None
    failed = int(np.sum(ends > MUCH_WORSE * lower_ends))
    if not failed:
        return reading
    lower = reading.suggestion / TRIED_LOWER
    doubt = (
        f"from a cold start, {failed} of {len(ends)} trainings of {TRIAL_STEPS} steps at {reading.suggestion:.2g} are far behind "
        f"those at {lower:.2g}; a schedule.warmup may help"
    )
    return dataclasses.replace(reading, suggestion=lower, doubt=doubt)


def _end(run: RampRun) -> float:
    """The mean loss of a trial's last third."""
    return float(completed(run.losses, TRIAL_STEPS)[-TRIAL_STEPS // 3 :].mean())


def _edge(losses: Floats) -> float:
    """The rate at which the scout's loss climbs, or the highest."""
    rates = np.geomspace(LOWEST, HIGHEST, SCOUT_STEPS)
    smoothed = smooth(losses, 3.0)
    return points(rates, smoothed).climbs or HIGHEST / ABOVE


def _padded(run: RampRun) -> Floats:
    return np.concatenate([run.growth, np.full(RAMP_STEPS - len(run.growth), np.nan)])


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Python's, numpy's and torch's global generators are afterwards as they were before."""
    states = random.getstate(), np.random.get_state()
    try:
        cuda = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        with torch.random.fork_rng(list(cuda)):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
