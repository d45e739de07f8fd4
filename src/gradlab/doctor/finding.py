"""What a look at one thing found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

GOOD, NOTE, WRONG = "ok", "note", "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    about: what was looked at: installation, device, store, disk, data or runs.
    verdict: ``ok``; ``note``, worth knowing and no fault; or ``wrong``, which makes the exit status 1.
    said: what was found.
    advice: what to do about it; or empty.
    """

    about: str
    verdict: str
    said: str
    advice: str = ""


Look = Callable[[], Iterator[Finding]]
