"""The faults that `scripts/chaos.py` makes, one kind to a file."""

from faults import damaged, disk, many, memory, mistakes, nonfinite, resuming, store  # noqa: F401 — each registers itself
from faults.registry import FAULTS, Outcome, Setting

__all__ = ["FAULTS", "Outcome", "Setting"]
