"""Random streams. Each use of randomness has a stream of its own, derived from the run's seed and its position.

Deriving instead of drawing makes every stream stateless: the order of epoch 7 is the same whether or not epochs 0 to 6
were computed in this process, and adding a use of randomness shifts no other.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STREAMS = {"split": 0, "init": 1, "order": 2, "forward": 3, "augment": 4, "search": 9}


def derive(seed: int, stream: str, *position: int) -> int:
    """A 63-bit seed for ``stream`` at ``position``: the same arguments give the same seed everywhere.

    Uses numpy's SeedSequence (O'Neill's seed_seq): neighbouring seeds and positions give unrelated streams.
    """
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(STREAMS[stream], *position))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, stream: str, *position: int) -> "torch.Generator":
    """A CPU generator for ``stream`` at ``position``. On the CPU always, so that a GPU run draws the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, stream, *position))
