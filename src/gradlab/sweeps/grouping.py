"""Which points of a sweep can be trained at once, as a population: those that differ only in numbers held side by side."""

import itertools
import json
from collections.abc import Sequence

from gradlab.config import Config
from gradlab.sweeps.identity import values_of

SIDE_BY_SIDE = ("schedule", "init", "seed")
"""What may differ between members whatever it is: a schedule is a function of the step, an initialiser has done its work when
the training begins, and a member has its own batches."""
NUMBERS_OF = (
    "optimizer",
    "param_groups",
    "loss",
    "averaging",
    "trainer.clip_norm",
    "trainer.clip_value",
    "model.dropout",
)
"""Of these only the numbers may differ (rates, betas, decays, smoothing, bounds), not what kind of thing they are."""


def group_of(config: Config) -> str | None:
    """What a population's members share, as text: configurations with the same can be trained at once. None for those that
    are always trained alone.
    """
    if config.wrapper.name != "none":
        return None  # SAM makes two passes, and slow weights jump: each has a rhythm of its own
    if config.trainer.devices > 1:
        return None
    values = values_of(config)
    return json.dumps([[key, _kept(key, value)] for key, value in values.items() if not _is_of(key, SIDE_BY_SIDE)])


def _kept(key: str, value: object) -> object:
    """What must be alike of a value: of a number that may differ, that it is one."""
    if _is_of(key, NUMBERS_OF):
        if isinstance(value, float):
            return "number"
        if isinstance(value, list) and all(isinstance(item, float) for item in value):
            return ["number"] * len(value)
    return value


def _is_of(key: str, heads: Sequence[str]) -> bool:
    return any(key == head or key.startswith(f"{head}.") for head in heads)


def parcels(groups: Sequence[str | None], sizes: dict[str, int], workers: int) -> list[list[int]]:
    """The points, by their place in ``groups``, as parcels that a worker trains at once.

    Points of one group make as few parcels as its size allows, but one for each worker at least, and all about as large:
    so no worker is left idle while another trains the last ones.

    Args:
        groups: of each point.
        sizes: members of a population at most, by group; 1 where a group is not in it.
        workers: that take parcels.
    """
    members: dict[str, list[int]] = {}
    made: list[list[int]] = []
    for place, group in enumerate(groups):
        if group is None or sizes.get(group, 1) == 1:
            made.append([place])
        else:
            members.setdefault(group, []).append(place)
    for group, places in members.items():
        count = -(-len(places) // sizes[group])
        count = min(len(places), -(-count // workers) * workers)
        bounds = [len(places) * part // count for part in range(count + 1)]
        made += [places[start:end] for start, end in itertools.pairwise(bounds)]
    return sorted(made, key=lambda parcel: parcel[0])
