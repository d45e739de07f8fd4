"""What a search may choose from: Hydra's own syntax for sweeps, read as a space with one dimension for each swept key.

==================================  ==========================================================
``a,b,c``, ``choice(a,b)``, globs   one of these, without an order; so ``logspace`` and ``linspace``, written out
``interval(a,b)``                   any number from a to b
``tag(log,interval(a,b))``          the same, as likely in one decade as in another
``range(a,b)``, ``range(a,b,s)``    a whole number (a number, where one of them is none), b left out, in steps of s
``int(interval(a,b))``              a whole number from a to b; both may have the tag, too
==================================  ==========================================================

Only ``seed`` is no dimension: its values are repetitions of every trial.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from gradlab.errors import ConfigError
from gradlab.sweeps.grids import expand

EXAMPLE = "'optimizer.lr=tag(log,interval(1e-4,1))'"
LOG = "log"


@dataclass(frozen=True)
class Dimension:
    """One swept key and its values.

    key: of the override, such as ``optimizer.lr``.
    written: the values as they were typed.
    kind: ``choice``, ``float`` or ``int``.
    choices: of a choice, each as in an override; else empty.
    low, high: the ends of what is no choice, both included.
    step: between two values; None of what is continuous, and of whole numbers with ``log``.
    log: whether by factors.
    """

    key: str
    written: str
    kind: Literal["choice", "float", "int"]
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def values(self) -> list[Any] | None:
        """All its values, in order; None where there is no end of them."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "float" and self.step is None:
            return None
        step = self.step or 1
        count = round((self.high - self.low) / step) + 1
        return [_plain(self.low + index * step, self.kind) for index in range(count)]

    @property
    def ends(self) -> list[Any]:
        """All choices, or the lowest and the highest number."""
        return list(self.choices) or [_plain(self.low, self.kind), _plain(self.high, self.kind)]

    def rounded(self, value: Any) -> Any:
        """A number of a continuous dimension with four significant digits, inside its ends: more only make names long."""
        if self.kind != "float":
            return value
        short = float(f"{value:.12g}" if self.step else f"{value:.4g}")
        return min(max(short, float(self.low)), float(self.high))

    def override(self, value: Any) -> str:
        """``optimizer.lr=0.1``"""
        return f"{self.key}={value if isinstance(value, str) else repr(value)}"


@dataclass(frozen=True)
class Space:
    """What is searched.

    fixed: overrides that every point has.
    dimensions: in the order given.
    seeds: the repetitions, as overrides; empty where no seed is swept.
    """

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    seeds: tuple[str, ...]

    @property
    def repetitions(self) -> int:
        return max(1, len(self.seeds))

    def points(self, params: Mapping[str, Any]) -> list[list[str]]:
        """The overrides of each point of the trial with the values ``params``: one for each seed."""
        chosen = [*self.fixed, *(dimension.override(params[dimension.key]) for dimension in self.dimensions)]
        return [[*chosen, seed] for seed in self.seeds] or [chosen]

    def probes(self) -> list[list[str]]:
        """Points that have every choice and every end once, so that what is impossible is found before anything runs."""
        longest = max(len(dimension.ends) for dimension in self.dimensions)
        return [
            [
                *self.fixed,
                *(d.override(d.ends[min(index, len(d.ends) - 1)]) for d in self.dimensions),
                *self.seeds[min(index, len(self.seeds) - 1) :][:1],
            ]
            for index in range(longest)
        ]

    def plain(self) -> list[dict[str, Any]]:
        """The dimensions, for JSON."""
        return [{**asdict(dimension), "choices": list(dimension.choices)} for dimension in self.dimensions]


def read_space(arguments: Sequence[str], params: Mapping[str, Any] | None, loader: Any) -> Space:
    """The space of the command line ``arguments`` and of ``hydra.sweeper.params``, whose keys the former may replace.

    Raises:
        ConfigError: there is nothing to search, or something that cannot be.
        HydraException: an override cannot be read.
    """
    texts = [*(expand(f"{key}={value}") for key, value in (params or {}).items()), *arguments]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(texts)
    by_key = {str(override.get_key_element()): override for override in overrides}
    fixed, dimensions, seeds = [], [], []
    for key, override in by_key.items():
        if key == "seed" and override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(
                    f"{override.input_line}: seeds are repetitions of every trial, as in 'seed=range(3)'."
                )
            seeds = [f"seed={value}" for value in override.sweep_string_iterator()]
        elif override.is_sweep_override():
            dimensions.append(_dimension(key, override))
        else:
            fixed.append(str(override.input_line))
    if not dimensions:
        raise ConfigError(
            f"hydra/sweeper=gradlab_optuna: there is nothing to search. Give a key a range, such as {EXAMPLE}."
        )
    return Space(tuple(fixed), tuple(dimensions), tuple(seeds))


def _dimension(key: str, override: Override) -> Dimension:
    line = str(override.input_line)
    written, sweep = line.partition("=")[2], override.value()
    log = LOG in getattr(sweep, "tags", ())
    strange = sorted(set(getattr(sweep, "tags", ())) - {LOG})
    if strange:
        raise ConfigError(f"{line}: the only tag that a search knows is '{LOG}', not {', '.join(map(repr, strange))}.")
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        low, high = sweep.start, sweep.end
        kind: Literal["float", "int"] = "int" if isinstance(low, int) and isinstance(high, int) else "float"
        step: float | None = 1 if kind == "int" else None
    elif isinstance(sweep, RangeSweep):
        values = sorted(sweep.range())
        if not values:
            raise ConfigError(f"{line}: the range is empty.")
        low, high, step = values[0], values[-1], abs(sweep.step)
        kind = "int" if all(isinstance(value, int) for value in values) else "float"
    else:
        choices = tuple(dict.fromkeys(str(value) for value in override.sweep_string_iterator()))
        if log:
            raise ConfigError(f"{line}: only an interval or a range can have the tag '{LOG}'.")
        if not choices:
            raise ConfigError(f"{line}: there is nothing to choose from.")
        return Dimension(key, written, "choice", choices)
    if not all(map(math.isfinite, (low, high))) or low > high:
        raise ConfigError(f"{line}: an interval has two finite ends, the lower first.")
    if log and low <= 0:
        raise ConfigError(f"{line}: with the tag '{LOG}' both ends must be above 0.")
    if log and isinstance(sweep, RangeSweep) and (kind == "float" or step != 1):
        raise ConfigError(f"{line}: a range with the tag '{LOG}' has whole numbers and no step; write an interval.")
    return Dimension(key, written, kind, (), low, high, None if log else step, log)


def _plain(number: float, kind: str) -> int | float:
    return round(number) if kind == "int" else float(f"{number:.12g}")
