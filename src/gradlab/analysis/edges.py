"""Whether the best setting stands at the edge of what was tried, and what to try beyond it."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.analysis.grouping import Grouped, Setting, is_number, shown
from gradlab.analysis.records import Value
from gradlab.config import AXES, choice
from gradlab.errors import ConfigError

POINTS = 5
DECADES = 2.0
NEAR_THE_END = 0.1


@dataclass(frozen=True)
class Edge:
    """The best setting has the lowest or the highest value of ``key`` that was tried with its choices.

    lowest: whether it is the lowest; else the highest.
    value: that value.
    tried: all values of the key that were tried with these choices, in order.
    next_grid: the override of a grid that begins there and leads on, such as ``optimizer.lr=logspace(1,100,5)``; None
        where the key's own bounds allow nothing beyond.
    """

    key: str
    lowest: bool
    value: float
    tried: Sequence[float]
    next_grid: str | None


def edges(grouped: Grouped, best: Setting, space: Sequence[Mapping[str, Any]] = ()) -> list[Edge]:
    """The edges that ``best`` stands at, the learning rate's first.

    ``space`` are the dimensions of a search: the lowest of the values that it happened to try is no edge of what it searched.
    """
    found = []
    for key in grouped.numbers:
        tried = tried_values(grouped, best, key)
        value = best.values.get(key)
        if len(tried) < 2 or not is_number(value) or value not in (tried[0], tried[-1]):
            continue
        assert isinstance(value, int | float)
        lowest = value == tried[0]
        if _is_inside(value, lowest, next((one for one in space if one["key"] == key), None)):
            continue
        if lowest and value == 0:
            continue  # weight decay, momentum: none at all is no edge of a grid
        found.append(Edge(key, lowest, value, tried, _next_grid(key, value, tried, lowest, best)))
    return found


def _is_inside(value: float, lowest: bool, dimension: Mapping[str, Any] | None) -> bool:
    """Whether a search has a tenth of its range or more beyond ``value``."""
    if dimension is None or dimension["kind"] == "choice":
        return False
    low, high, place = (
        math.log(max(number, 1e-300)) if dimension["log"] else number
        for number in (dimension["low"], dimension["high"], value)
    )
    return high > low and ((place - low) if lowest else (high - place)) >= NEAR_THE_END * (high - low)


def tried_values(grouped: Grouped, best: Setting, key: str) -> list[float]:
    """The values of ``key`` in all settings with the choices of ``best``, also of those that diverged or never ran."""
    group = grouped.group_of(best)
    return sorted(
        {
            setting.values[key]  # type: ignore[misc]
            for setting in grouped.settings
            if grouped.group_of(setting) == group and is_number(setting.values.get(key))
        }
    )


def is_logarithmic(values: Sequence[float], key: str = "") -> bool:
    """Whether a grid goes by factors: over a decade or more, or in equal factors; a learning rate always does."""
    positive = [value for value in values if value > 0]
    if len(positive) < len(values) - (0 in values) or len(positive) < 2:
        return False
    if key.endswith(".lr") or positive[-1] / positive[0] >= 10:
        return True
    factors = [after / before for before, after in itertools.pairwise(positive)]
    return len(factors) > 1 and min(factors) > 1.2 and max(factors) / min(factors) < 1.01


def refined_grid(key: str, value: float, tried: Sequence[float]) -> str | None:
    """The override of a finer grid between the neighbours of ``value``; None for whole numbers and at an edge."""
    index = list(tried).index(value)
    if not 0 < index < len(tried) - 1 or isinstance(value, int):
        return None
    low, high = tried[index - 1], tried[index + 1]
    if is_logarithmic(tried, key) and low > 0:
        return f"{key}=logspace({shown(low)},{shown(high)},{POINTS})"
    return f"{key}=linspace({shown(low)},{shown(high)},{POINTS})"


def _next_grid(key: str, value: float, tried: Sequence[float], lowest: bool, best: Setting) -> str | None:
    neighbour = tried[1] if lowest else tried[-2]
    logarithmic = is_logarithmic(tried, key) and neighbour > 0
    whole = all(isinstance(number, int) for number in tried)
    if whole:
        values = [
            value * (value / neighbour) ** index if logarithmic else value + (value - neighbour) * index
            for index in range(3)
        ]
        values = [float(number) for number in dict.fromkeys(round(number) for number in values)]
    elif logarithmic:
        ratio = value / neighbour
        span = ratio ** (POINTS - 1)
        if not 10**-DECADES <= span <= 10**DECADES:
            span = 10 ** (-DECADES if lowest else DECADES)
        step = span ** (1 / (POINTS - 1))
        values = [value * step**index for index in range(POINTS)]
    else:
        values = [value + (value - neighbour) * index for index in range(POINTS)]
    values = [number for number in values if _allowed(key, int(number) if whole else number, best)]
    values.sort()
    if len(values) < 2:
        return None
    if whole:
        return f"{key}={','.join(str(int(number)) for number in values)}"
    kind = "logspace" if logarithmic else "linspace"
    return f"{key}={kind}({shown(values[0])},{shown(values[-1])},{len(values)})"


def _allowed(key: str, value: float, best: Setting) -> bool:
    """Whether the choice that the key belongs to takes this value: its own checks are asked."""
    axis, _, name = key.partition(".")
    config = next((run.config for run in best.runs if f"{axis}.name" in run.config), None)
    if not math.isfinite(value) or axis not in AXES or config is None or "." in name:
        return value > 0
    values: dict[str, Any] = {
        other.removeprefix(f"{axis}."): _plain(known) for other, known in config.items() if other.startswith(f"{axis}.")
    }
    if not _taken(axis, values):  # another version's, or a user's own that is not imported here: no opinion
        return value > 0
    return _taken(axis, {**values, name: value})


def _taken(axis: str, values: dict[str, Any]) -> bool:
    try:
        choice(axis, values)
    except ConfigError:
        return False
    return True


def _plain(value: Value) -> Any:
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
