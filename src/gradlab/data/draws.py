"""Random numbers without a state: each is a hash of a key, the epoch and the index of an image.

SplitMix64 (Steele, Lea and Flood, 2014, https://doi.org/10.1145/2660193.2660195) at a position instead of in a row: its
state is a counter times an odd constant, so the number at any position costs as much as the first. All of it is int64
arithmetic modulo 2⁶⁴ and an exact conversion, so a CPU and a GPU draw the same bits, and what is drawn for an image
depends on nothing but its index: not on its batch, the order, or what was drawn before.
"""

import zlib

import torch

from gradlab.seeds import derive


def _signed(number: int) -> int:
    """``number`` modulo 2⁶⁴ as int64 writes it."""
    return (number + 2**63) % 2**64 - 2**63


GOLDEN = _signed(0x9E3779B97F4A7C15)
FIRST = _signed(0xBF58476D1CE4E5B9)
SECOND = _signed(0x94D049BB133111EB)
BITS = 24  # of a float32's significand


def keys(seed: int, stream: str, count: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Keys of ``count`` numbers of the stream called ``stream``, int64 [count], for a run with this seed."""
    name = zlib.crc32(stream.encode())
    return torch.tensor([derive(seed, "augment", name, number) for number in range(count)]).to(device, torch.int64)


def in_epoch(keys: torch.Tensor, epoch: int, varies: torch.Tensor | int = 1) -> torch.Tensor:
    """The keys of data epoch ``epoch``, shaped as ``keys``. Where ``varies`` is 0 instead of 1, every epoch's are alike."""
    return _mixed(keys + varies * _signed(GOLDEN * (epoch + 1)))


def uniform(epoch_keys: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1), multiples of 2⁻²⁴, float32 [*keys, images].

    epoch_keys: of ``in_epoch``, int64 of any shape: [numbers], or [numbers, members] for several seeds at once.
    indices: of the images, int64 [images], or [members, images].
    """
    bits = _mixed(epoch_keys[..., None] + indices * GOLDEN)
    return _shifted(bits, 64 - BITS).float() * 2.0**-BITS


def draw(keys: torch.Tensor, epoch: int, indices: torch.Tensor, varies: torch.Tensor | int = 1) -> torch.Tensor:
    """The numbers of the images ``indices`` in ``epoch``: ``uniform`` of ``in_epoch``."""
    return uniform(in_epoch(keys, epoch, varies), indices)


def below(count: int, uniforms: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to ``count`` − 1, int64. Rounding cannot reach ``count``: 1 − 2⁻²⁴ times it stays below."""
    return (uniforms * count).long()


def _mixed(state: torch.Tensor) -> torch.Tensor:
    state = (state ^ _shifted(state, 30)) * FIRST
    state = (state ^ _shifted(state, 27)) * SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, places: int) -> torch.Tensor:
    """To the right, zeros coming in: torch's own shift of an int64 repeats the sign."""
    return (state >> places) & ((1 << (64 - places)) - 1)
