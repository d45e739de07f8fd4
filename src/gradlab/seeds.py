"""Random streams. Each use of randomness has a stream of its own, derived from the run's seed and its position.

Deriving instead of drawing makes every stream stateless: the order of epoch 7 is the same whether or not epochs 0 to 6
were computed in this process, and adding a use of randomness shifts no other.
"""

from typing import TYPE_CHECKING, Protocol

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


class RandomState(Protocol):
    """Generators that a training draws from as it goes, and so must be carried over when it is stopped and gone on with."""

    def state(self) -> "dict[str, torch.Tensor]":
        """Where they are."""

    def load(self, state: "dict[str, torch.Tensor]") -> None:
        """Put them where ``state`` says."""


class TorchRandomState:
    """torch's own generators: the CPU's, and of CUDA, where it has begun, the current device's."""

    def state(self) -> "dict[str, torch.Tensor]":
        import torch

        state = {"cpu": torch.get_rng_state()}
        return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})

    def load(self, state: "dict[str, torch.Tensor]") -> None:
        import torch

        torch.set_rng_state(state["cpu"].contiguous())
        if "cuda" in state and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["cuda"].contiguous())
