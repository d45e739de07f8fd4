"""Learning-rate schedules: pure functions of the step, so that training, plots and tests use one thing.

``factor(step, horizon)`` is what the base learning rate is multiplied with at optimizer step ``step`` (0 for the
first). Every schedule begins with a linear warm-up of ``warmup`` (0 for none): step s of w has the factor (s + 1)/w times
the curve's first. After it the schedule's own curve runs over what is left of the run. Every file in this folder is
imported, so a new one registers itself.
"""

import importlib
import pkgutil

from gradlab.schedules.base import SCHEDULES, Schedule
from gradlab.schedules.decays import Constant, Cosine
from gradlab.schedules.levels import Step

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["SCHEDULES", "Constant", "Cosine", "Schedule", "Step"]
