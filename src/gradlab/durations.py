"""How long a run is, and lengths within it: ``500 steps``, ``2 epochs``, ``5%``, ``10 minutes``.

A bare number other than 0 is refused: nobody can tell later whether it meant steps or epochs.
"""

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

from gradlab.errors import FieldError

_PATTERN = re.compile(r"(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[a-z%]*)", re.IGNORECASE)
_UNITS = {
    "%": "percent",
    "percent": "percent",
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "minute": "minutes",
    "minutes": "minutes",
    "validation": "validations",
    "validations": "validations",
}
UNITS_OF_A_RUN = ("steps", "epochs", "percent")


@dataclass(frozen=True)
class Horizon:
    """The length of one run, both in optimizer steps (≥ 1). An epoch's short last batch is a step of its own."""

    total_steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> float:
        return self.total_steps / self.steps_per_epoch


@dataclass(frozen=True)
class Duration:
    """A length: ``number`` ≥ 0 of ``unit``, which is steps, epochs, percent (of the run), minutes or validations."""

    number: float
    unit: str

    def steps(self, horizon: Horizon) -> int:
        """This length in optimizer steps, rounded to the nearest; at least 1 unless the length is 0."""
        exact = self.exact_steps(horizon)
        return max(1, math.floor(exact + 0.5)) if self.number > 0 else 0

    def exact_steps(self, horizon: Horizon) -> float:
        """This length in optimizer steps and their fractions."""
        if self.unit in ("minutes", "validations"):
            raise ValueError(f"{self.unit} have no length in steps")
        scale = {"steps": 1.0, "epochs": horizon.steps_per_epoch, "percent": horizon.total_steps / 100}[self.unit]
        return self.number * scale

    def __str__(self) -> str:
        return f"{self.number:g}%" if self.unit == "percent" else f"{self.number:g} {self.unit}"


@functools.cache
def parse_duration(text: str, units: tuple[str, ...] = UNITS_OF_A_RUN) -> Duration:
    """``'5%'``, ``'500 steps'``, ``'2epochs'``, ``'10 minutes'`` or ``'0'`` as a ``Duration``.

    ``units`` are those that the error messages give as examples.

    Raises:
        ValueError: no finite number, a number without a unit, or an unknown unit.
    """
    match = _PATTERN.fullmatch(text.strip())
    try:
        number = float(match["number"]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or not math.isfinite(number):
        raise ValueError(f"is not a length: '{text}'. {_examples(None, units)}")
    unit = match["unit"].lower()
    if unit == "" and number == 0:
        return Duration(0.0, "steps")
    if unit not in _UNITS:
        why = f"has no unit: '{text}'" if unit == "" else f"has an unknown unit: '{text}'"
        raise ValueError(f"{why}. {_examples(number, units)}")
    return Duration(number, _UNITS[unit])


def _examples(number: float | None, units: tuple[str, ...]) -> str:
    """How a length is written, with the number that was meant."""
    usual = {"steps": 500, "epochs": 2, "minutes": 10, "validations": 5}
    written = [f"'{usual[unit] if number is None else number:g} {unit}'" for unit in units if unit != "percent"]
    if "percent" in units:
        written.append("'5%'")
    return (
        f"Write it like {', '.join(written[:-1])} or {written[-1]}"
        if len(written) > 1
        else f"Write it like {written[0]}"
    )


def duration_of(owner: Any, field: str, *, units: tuple[str, ...] = UNITS_OF_A_RUN) -> Duration:
    """The duration written in ``owner.field``, its unit one of ``units`` and a percentage at most 100.

    Raises:
        FieldError: it cannot be read, or does not fit.
    """
    return _fitting(str(getattr(owner, field)), field, units)


def durations_of(owner: Any, field: str, *, units: tuple[str, ...] = UNITS_OF_A_RUN) -> list[Duration]:
    """The durations of the list ``owner.field``, each as in ``duration_of``."""
    return [_fitting(str(text), field, units) for text in getattr(owner, field)]


def _fitting(text: str, field: str, units: tuple[str, ...]) -> Duration:
    try:
        duration = parse_duration(text, units)
    except ValueError as error:
        raise FieldError(field, str(error)) from None
    if duration.number > 0 and duration.unit not in units:
        raise FieldError(field, f"must be given in {' or '.join(units)}, not in {duration.unit}")
    if duration.unit == "percent" and duration.number > 100:
        raise FieldError(field, f"must be at most 100%, not {duration}")
    return duration
