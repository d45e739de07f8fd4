"""Checks that a choice makes of its own numbers, in ``__post_init__``; each raises a ``FieldError``."""

import math
from collections.abc import Iterable
from typing import Any

from gradlab.errors import FieldError, did_you_mean


def check_number(
    owner: Any,
    field: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise unless the number (or every number of the list) ``owner.field`` is finite and inside the bounds."""
    value = getattr(owner, field)
    for number in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(number, int | float):  # OmegaConf lets a list pass for an entry of a list of numbers
            raise FieldError(field, f"must hold numbers, not {number}")
        if not math.isfinite(number):
            raise FieldError(field, f"must be a finite number, not {number}")
        if above is not None and not number > above:
            raise FieldError(field, f"must be above {above:g}, not {number:g}")
        if at_least is not None and not number >= at_least:
            raise FieldError(field, f"must be at least {at_least:g}, not {number:g}")
        if below is not None and not number < below:
            raise FieldError(field, f"must be below {below:g}, not {number:g}")
        if at_most is not None and not number <= at_most:
            raise FieldError(field, f"must be at most {at_most:g}, not {number:g}")


def check_length(owner: Any, field: str, length: int) -> None:
    """Raise unless the list ``owner.field`` has ``length`` entries."""
    value = getattr(owner, field)
    if len(value) != length:
        raise FieldError(field, f"must have {length} numbers, not {len(value)}: {list(value)}")


def check_option(owner: Any, field: str, options: Iterable[str]) -> None:
    """Raise unless ``owner.field`` is one of ``options``."""
    value, options = getattr(owner, field), list(options)
    if value not in options:
        raise FieldError(
            field, f"must be one of {', '.join(options)}, not '{value}'.{did_you_mean(str(value), options)}"
        )
