"""What a point of a sweep is: the hash of its resolved configuration; and its name, by what distinguishes it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from gradlab.config import AXES, LISTED, Config

NO_PART_OF_THE_RESULT = ("tracking", "trainer.checkpoint_every", "trainer.speed", "trainer.sharding")
"""Left out of a point's identity, as are the top-level keys ``name``, ``output_dir``, ``plots`` and ``resume``: where a run is
recorded, what it is called, what is drawn of it, how often it is saved, how its steps are computed and where its
weights lie change nothing of what
is trained. ``log_every``
and ``validate_every`` stay in: they decide the journal's rows and which network is the best."""

Values = dict[str, Any]


def values_of(config: Config) -> Values:
    """The configuration's typed values by dotted key, without what is no part of the result; lists stay whole.

    Typed, so that ``optimizer.lr=1`` and ``optimizer.lr=1.0`` are one point.
    """
    tree: dict[str, Any] = {axis: dataclasses.asdict(getattr(config, axis)) for axis in AXES if axis != LISTED}
    # Several choices, whose order counts: their names are a list, like the one name of another axis.
    listed = {entry.name: dataclasses.asdict(entry) for entry in getattr(config, LISTED)}
    tree[LISTED] = {"name": list(listed)} | listed
    tree |= {"seed": config.seed, "imports": config.composed.get("imports", [])}
    tree |= (
        {"find_lr": True} if config.find_lr else {}
    )  # no key of its own elsewhere: points of before it keep their hash
    flat = flatten(tree)
    if flat["trainer.devices"] == 1:  # the same for these
        del flat["trainer.devices"]
    return {
        key: value
        for key, value in flat.items()
        if not any(key == left or key.startswith(f"{left}.") for left in NO_PART_OF_THE_RESULT)
    }


def flatten(node: Any, path: str = "") -> Values:
    """``{"optimizer": {"lr": 0.1}}`` as ``{"optimizer.lr": 0.1}``; lists and empty dictionaries stay whole."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    flat: Values = {}
    for key, child in node.items():
        flat |= flatten(child, f"{path}.{key}" if path else str(key))
    return flat


def identity(values: Values) -> str:
    """SHA-256 of a point's values, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def swept_keys(points: Sequence[Values], named: Sequence[str]) -> list[str]:
    """The keys whose values differ between points, in the configuration's order, the seed last.

    A key that follows from the choice of its axis (``optimizer.betas``, which only some optimizers have) is not swept
    itself. ``named`` keys are those swept on the command line; they count even where their value is always the same.
    """
    keys = list(dict.fromkeys(key for values in points for key in values))
    kept = []
    for key in keys:
        axis = key.split(".")[0]
        by_choice: dict[str, set[str]] = {}
        for values in points:
            if key in values:
                by_choice.setdefault(str(values.get(f"{axis}.name")), set()).add(json.dumps(values[key]))
        differs = len(set().union(*by_choice.values())) > 1 or any(key not in values for values in points)
        follows = axis in AXES and not key.endswith(".name") and all(len(found) == 1 for found in by_choice.values())
        if key in named or (differs and not follows):
            kept.append(key)
    return sorted(kept, key=lambda key: (key == "seed", not key.endswith(".name"), keys.index(key)))


def names(points: Sequence[Values], swept: Sequence[str]) -> list[str]:
    """A name for each point: ``adam lr=3.2e-3 seed=1``. Numbers have as few digits, from two on, as keep them apart."""
    written: dict[str, dict[str, str]] = {
        key: _distinct([values[key] for values in points if key in values]) for key in swept
    }
    labels = _labels(swept)
    return [
        " ".join(
            label + written[key][json.dumps(values[key])]
            for key, label in zip(swept, labels, strict=True)
            if key in values
        )
        for values in points
    ]


def _labels(swept: Sequence[str]) -> list[str]:
    """``lr=`` for ``optimizer.lr``, the whole key where two end alike; nothing for a choice's name."""
    last = [key.split(".")[-1] for key in swept]
    return [
        "" if key.endswith(".name") else f"{short if last.count(short) == 1 else key}="
        for key, short in zip(swept, last, strict=True)
    ]


def _distinct(values: Sequence[Any]) -> dict[str, str]:
    """How each value is written, by its JSON."""
    different = {json.dumps(value): value for value in values}
    for digits in (2, 3, 4, 6, 17):
        written = {key: _written(value, digits) for key, value in different.items()}
        if len(set(written.values())) == len(written):
            break
    return written


def _written(value: Any, digits: int) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_written(item, digits) for item in value) + "]"
    if not isinstance(value, float):
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.{max(digits, 4 if value >= 100 else 3)}g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def setting(name: str) -> str:
    """A point's name without its seed: what the seeds are repetitions of."""
    return " ".join(part for part in name.split(" ") if not part.startswith("seed="))
