"""Going on with runs that were trained at once: all from the same step, though they were killed while some had written theirs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from gradlab.tracking.folder import RunFolder


def align(folders: Sequence[RunFolder]) -> int:
    """Make the ``last`` checkpoint of every run that of the newest step at which all of them have a whole one.

    Members write after the same steps, one after the other, and keep the checkpoint before; so there is such a step from
    their first writing on. Without one, all begin anew: their checkpoints are removed. Nobody else has the runs.

    Returns:
        The step, 0 where they begin anew.
    """
    from gradlab.checkpoints import LAST, previous

    found = [_whole(folder.checkpoints) for folder in folders]
    step = max(set.intersection(*(set(steps) for steps in found)), default=0)
    for folder, steps in zip(folders, found, strict=True):
        last, kept = folder.checkpoints / LAST, steps.get(step)
        if kept == last:
            continue
        # Killed in between, ``last`` is damaged or missing, and the next call finds the one before all the same.
        shutil.rmtree(last, ignore_errors=True)
        if kept is None:
            shutil.rmtree(previous(last), ignore_errors=True)
        else:
            kept.rename(last)
    return step


def _whole(checkpoints: Path) -> dict[int, Path]:
    """The whole ones of the last two checkpoints, by their step."""
    from gradlab.checkpoints import LAST, load_checkpoint, previous
    from gradlab.errors import CheckpointError

    whole: dict[int, Path] = {}
    for path in (previous(checkpoints / LAST), checkpoints / LAST):
        try:
            whole[int(load_checkpoint(path)[1]["step"])] = path
        except (CheckpointError, KeyError, TypeError, ValueError):
            continue
    return whole
