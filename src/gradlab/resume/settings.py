"""With which configuration a run is gone on with: its own, but for overrides; and which of those change its result."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradlab.config import AXES, LISTED, Config, override_key
from gradlab.errors import ConfigError
from gradlab.sweeps.identity import values_of

OF_THE_MACHINE = (
    "data.root", "data.download", "data.cache_dir", "data.workers", "data.stream", "data.memory_share",
    "trainer.name", "trainer.threads", "trainer.devices", "trainer.deterministic", "trainer.probe_every",
)  # fmt: skip
"""Where images lie and what computes: such keys change no result beyond rounding, which the fingerprint tells."""
LENGTH = ("trainer.max_epochs", "trainer.max_steps")
_OURS = ("resume", "fork")

Changed = dict[str, tuple[Any, Any]]


def with_overrides(
    recorded: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """The recorded configuration, with what the command line sets.

    Args:
        recorded: the run's own, resolved.
        composed: what Hydra makes of the defaults and the overrides.
        overrides: as they were typed.
    """
    merged: dict[str, Any] = _copy(recorded)
    for override in overrides:
        key = override_key(override)
        if key in _OURS:
            continue
        if key == "experiment":
            raise ConfigError(
                f"{override}: a recipe chooses everything anew, and resume=… goes on with what a run has chosen. "
                "Name the single settings that shall differ."
            )
        if key in AXES:
            # The run's own choice, named again, keeps the run's numbers.
            if _chosen(key, merged.get(key)) != _chosen(key, composed[key]):
                merged[key] = _copy(composed[key])
        else:
            _set(merged, composed, key.split("."))
    return merged


def _chosen(axis: str, part: Any) -> Any:
    """The name of an axis' choice, or the names of the one axis that has a list."""
    if not isinstance(part, Mapping):
        return None
    return list(part) if axis == LISTED else part.get("name")


def _set(merged: dict[str, Any], composed: Mapping[str, Any], path: list[str]) -> None:
    """Set what is at ``path`` to what it is in ``composed``; delete it where it is not there."""
    first, *rest = path
    if not isinstance(composed, Mapping) or first not in composed:
        merged.pop(first, None)
    elif rest and isinstance(merged.get(first), dict):
        _set(merged[first], composed[first], rest)
    else:
        merged[first] = _copy(composed[first])


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _copy(child) for key, child in node.items()}
    return [_copy(child) for child in node] if isinstance(node, list) else node


def changes(before: Config, after: Config) -> Changed:
    """The keys whose values differ, each with both: of those that are part of the result."""
    old, new = values_of(before), values_of(after)
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def result_changing(before: Config, after: Config, changed: Changed) -> Changed:
    """Of ``changed``, what makes another run of it. More steps do not: that is a longer training."""
    longer = after.horizon.total_steps >= before.horizon.total_steps
    free = (*OF_THE_MACHINE, *(LENGTH if longer else ()))
    return {key: values for key, values in changed.items() if key not in free}


def told(changed: Changed) -> str:
    """``optimizer.lr 0.003 → 0.1, seed 0 → 1``."""
    return ", ".join(f"{key} {_word(old)} → {_word(new)}" for key, (old, new) in changed.items())


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def stretched(before: Config, after: Config, step: int) -> str | None:
    """What a longer training means for the schedule, as a line; None where it is as long as before."""
    if before.horizon.total_steps == after.horizon.total_steps:
        return None
    total = after.horizon.total_steps
    line = f"The run is {before.horizon.total_steps:,} → {total:,} steps long now"
    if step >= total:
        return f"{line}."
    was = before.schedule.factor(min(step, before.horizon.total_steps - 1), before.horizon)
    now = after.schedule.factor(step, after.horizon)
    kind = after.schedule.name
    if was == now:
        return f"{line}; schedule={kind} has the same learning rate there."
    return (
        f"{line}, and schedule={kind} is that of {total:,} steps from here on: the learning rate at step {step:,} is "
        f"{after.optimizer.lr * now:.6g}, where it was {before.optimizer.lr * was:.6g}. It is not the run that this length "
        "would have given from its start."
    )
