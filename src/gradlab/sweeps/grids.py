"""``logspace(a,b,n)`` and ``linspace(a,b,n)`` in overrides: written out before Hydra reads them, whose grammar has neither."""

import re

from gradlab.errors import ConfigError

_CALL = re.compile(r"\b(logspace|linspace)\s*\(([^()]*)\)")
_QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def expand(override: str) -> str:
    """``override`` with each ``logspace`` and ``linspace`` of its value, outside of quotes, written out.

    ``optimizer.lr=logspace(1e-3,1,4)`` becomes ``optimizer.lr=0.001,0.01,0.1,1.0``. Both ends are included, and numbers
    have six significant digits, so that the same grid has the same numbers wherever it is written out.

    Raises:
        ConfigError: a call that makes no grid.
    """
    key, equals, value = override.partition("=")
    if not equals or "space" not in value:
        return override
    parts = _QUOTED.split(value)
    parts[::2] = [_CALL.sub(lambda call: _written_out(override, call[1], call[2]), part) for part in parts[::2]]
    return key + equals + "".join(parts)


def _written_out(override: str, kind: str, arguments: str) -> str:
    return ",".join(repr(number) for number in grid(override, kind, [part.strip() for part in arguments.split(",")]))


def grid(override: str, kind: str, arguments: list[str]) -> list[float]:
    """The numbers of ``kind(a,b,n)``; ``override`` is what the user typed, for the message."""
    wanted = f"{override}: {kind} takes {kind}(first,last,how many), such as {kind}(1e-4,1,9)"
    if len(arguments) != 3:
        raise ConfigError(f"{wanted}; it got {len(arguments)} arguments.")
    try:
        first, last = float(arguments[0]), float(arguments[1])
    except ValueError:
        raise ConfigError(f"{wanted}; '{arguments[0]}' and '{arguments[1]}' are not both numbers.") from None
    if not re.fullmatch(r"\d+", arguments[2]) or int(arguments[2]) < 2:
        raise ConfigError(f"{wanted}; how many must be a whole number of at least 2, not '{arguments[2]}'.")
    if not all(abs(number) < float("inf") for number in (first, last)):
        raise ConfigError(f"{wanted}; both ends must be finite.")
    if kind == "logspace" and min(first, last) <= 0:
        raise ConfigError(f"{wanted}; its ends are values, not exponents, and must be above 0.")
    steps = int(arguments[2]) - 1
    if kind == "logspace":
        return [_six_digits(first * (last / first) ** (step / steps)) for step in range(steps + 1)]
    return [_six_digits(first + (last - first) * step / steps) for step in range(steps + 1)]


def _six_digits(number: float) -> float:
    return float(f"{number:.6g}")
