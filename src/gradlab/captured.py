"""A compiled step's kernels launched all at once on a GPU: a CUDA graph, which spares the Python between them. Unmeasured yet."""

from collections.abc import Callable
from typing import Any

import torch

from gradlab.data.device import Batch

WARM_UP = 3
"""Calls before the capture, on a stream of their own: what libraries set up at their first call cannot be captured."""


class Captured:
    """Calls ``function``, from its fourth call on by replaying a graph of it.

    All tensors but the mini-batch's lie in the same memory at every call, and are changed in place; the batch is copied to
    where the graph reads it. The first calls are steps like all others, so nothing has to be put back after them. Random
    numbers go on from call to call, because torch's default generator counts those that a graph draws.

    Args:
        function: of a mini-batch, which returns tensors that do not share memory with what it is given.
    """

    def __init__(self, function: Callable[[Batch], tuple[torch.Tensor, ...]]) -> None:
        self._function = function
        self._calls = 0
        self._graph: Any = None
        self._batch: Batch
        self._told: tuple[torch.Tensor, ...] = ()

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._aside(batch)
        if self._graph is None:
            self._batch = Batch(*map(_copied, batch))
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):  # notes the kernels, and runs none
                self._told = self._function(self._batch)
        else:
            for place, own in zip(self._batch, batch, strict=True):
                if place is not None and own is not None:
                    place.copy_(own)
        self._graph.replay()
        return tuple(each.clone() for each in self._told)  # the next replay overwrites them

    def _aside(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            told = self._function(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return told


def _copied(tensor: Any) -> Any:
    """A copy; of nothing, nothing."""
    return None if tensor is None else tensor.clone()
