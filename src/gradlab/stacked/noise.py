"""The dropout masks of stacked networks: each member's are those that its run alone would draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Site:
    """One use of dropout in a forward pass: what enters it for one member, and each member's rate."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    rates: tuple[float, ...]


class Streams:
    """Each member's random numbers.

    Members with the same numbers ahead of them and the same rates share a stream, and so their masks.

    Args:
        states: of each member's generator, as ``torch.Generator.get_state`` gives it.
        rates: each member's dropout rates, in the order of its layers.
        device: where the networks compute.
    """

    def __init__(
        self, states: Sequence[torch.Tensor], rates: Sequence[tuple[float, ...]], device: torch.device
    ) -> None:
        self.device = device
        self.rates = list(rates)
        shared: dict[tuple[bytes, tuple[float, ...]], int] = {}
        self.generators: list[torch.Generator] = []
        self.stream_of: list[int] = []
        for state, own in zip(states, rates, strict=True):
            key = state.numpy().tobytes(), own
            if key not in shared:
                shared[key] = len(self.generators)
                generator = torch.Generator(device)
                generator.set_state(state)
                self.generators.append(generator)
            self.stream_of.append(shared[key])
        self._first = [self.stream_of.index(stream) for stream in range(len(self.generators))]

    def states(self) -> list[torch.Tensor]:
        """Of each member's generator."""
        return [self.generators[stream].get_state() for stream in self.stream_of]

    def draw(self, sites: Sequence[Site]) -> tuple[torch.Tensor, ...]:
        """What each use of dropout multiplies by: 0 or 1/(1 − rate), [members, batch, …], or [1, …] if all share it."""
        return tuple(self._noise(site) for site in sites)

    def _noise(self, site: Site) -> torch.Tensor:
        # With the strides of what it multiplies: their order is that in which the numbers are drawn.
        one = len(self.generators) == 1
        size = (1 if one else len(self.stream_of), *site.shape)
        numbers = torch.Size(site.shape).numel()
        noises = torch.empty_strided(size, (numbers, *site.stride), dtype=site.dtype, device=self.device)
        for member, noise in enumerate(noises):
            stream = self.stream_of[member]
            if self._first[stream] == member:
                self._fill(noise, site.rates[member], self.generators[stream])
            else:
                noise.copy_(noises[self._first[stream]])
        return noises

    def _fill(self, noise: torch.Tensor, rate: float, generator: torch.Generator) -> None:
        if rate == 0:
            noise.fill_(1)  # dropout of rate 0 draws nothing
        elif rate == 1:
            noise.zero_()
        elif self.device.type == "cpu":
            noise.bernoulli_(1 - rate, generator=generator).div_(1 - rate)  # what F.dropout does on a CPU
        else:
            # On a GPU F.dropout is a kernel with an order of its own, and it draws from the default generator.
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            default = torch.cuda.default_generators[index]
            kept = default.get_state()
            default.set_state(generator.get_state())
            noise.copy_(torch.nn.functional.dropout(torch.ones_like(noise), rate))
            generator.set_state(default.get_state())
            default.set_state(kept)
