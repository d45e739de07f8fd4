"""A step's kernels launched all at once on a GPU: a CUDA graph, which spares the Python between them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UP = 3
"""Calls before the capture, on a stream of their own: what libraries set up at their first call cannot be captured."""

Given = Sequence[torch.Tensor | None]


class Captured:
    """Calls ``function``, from its fourth call on by replaying a graph of it.

    All tensors but those given lie in the same memory at every call, and are changed in place; those given are copied to
    where the graph reads them. The first calls are steps like all others, so nothing has to be put back after them. Random
    numbers go on from call to call, because torch's default generator counts those that a graph draws.

    Args:
        function: of tensors on one GPU, always of the same shapes, and None always in the same places; returns tensors of one
            shape. It must not wait for the GPU, nor bring anything to it.
    """

    def __init__(self, function: Callable[[Given], Sequence[torch.Tensor]]) -> None:
        self._function = function
        self._calls = 0
        self._graph: Any = None
        self._given: list[torch.Tensor | None] = []
        self._told = torch.empty(0)

    def __call__(self, given: Given) -> tuple[torch.Tensor, ...]:
        """What ``function`` returns, as float64.

        Raises:
            RuntimeError: it cannot be captured. Nothing was computed then, and it may be called by itself.
        """
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._aside(given).unbind(0)
        if self._graph is None:
            self._capture(given)
        else:
            for place, own in zip(self._given, given, strict=True):
                if place is not None and own is not None:
                    place.copy_(own)
        self._graph.replay()
        return self._told.clone().unbind(0)  # the next replay overwrites it

    def _whole(self, given: Given) -> torch.Tensor:
        return torch.stack([each.double() for each in self._function(given)])

    def _aside(self, given: Given) -> torch.Tensor:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            told = self._whole(given)
        torch.cuda.current_stream().wait_stream(stream)
        return told

    def _capture(self, given: Given) -> None:
        copies = [None if own is None else own.clone() for own in given]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):  # notes the kernels, and runs none
                told = self._whole(copies)
        except BaseException:
            torch.cuda.set_stream(stream)  # torch leaves its own where a capture fails
            raise
        self._graph, self._given, self._told = graph, copies, told
