"""The faults that `scripts/chaos.py` makes, one kind to a file."""

from faults import damaged, disk, killed, many, memory, mistakes, nonfinite, saves, store  # noqa: F401 — each registers itself
from faults.registry import FAULTS, Fault, Outcome, Setting

__all__ = ["FAULTS", "Fault", "Outcome", "Setting"]
