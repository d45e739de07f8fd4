"""Runs and writings of checkpoints that are killed, and gone on with: `scripts/chaos_resume.py` makes them."""

from collections.abc import Callable, Iterator

import chaos_resume
from faults.registry import FAULTS, Outcome, Setting


def _here(made: Callable[..., Iterator[chaos_resume.Outcome]]) -> Callable[[Setting], Iterator[Outcome]]:
    def fault(setting: Setting) -> Iterator[Outcome]:
        for one in made(setting.count, setting.folder, setting.seed):
            said = f"{one.said}; {one.rows_doubled} rows doubled" if one.rows_doubled else one.said
            yield Outcome(one.kind, one.survived, said, one.rows_lost)

    fault.__doc__ = made.__doc__
    return fault


for name in ("sigkill", "sigterm", "saves", "truncated", "flipped"):
    FAULTS[name] = _here(getattr(chaos_resume, name))
