"""One optimizer step of many members at once: the arithmetic of each kind of optimizer, one family to a file."""

from gradlab.stacked.updates.update import Update, update_for

__all__ = ["Update", "update_for"]
