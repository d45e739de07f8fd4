"""Puts Winograd's convolution into the graph of a compiled step, wherever it can be and is faster."""

import operator
from pathlib import Path
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from gradlab.winograd import transforms
from gradlab.winograd.convolution import winograd, winograd_backward

FORWARD, BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
ONES = [1, 1]
LEAST_CHANNELS = 32
"""Of both sides: below, transforming tiles costs more than the products save (``experiments/LOG.md``)."""
LEAST_FILLED = 0.7
"""The share of the tiles' pixels that are an image's: 7×7 has 0.77, 5×5 has 0.39."""


class Winograd(CustomGraphPass):  # type: ignore[misc] # torch has no types for it
    """Replaces convolutions of single precision on the CPU with kernels of 3×3, a stride of 1 and a border of 1, and their
    derivatives. A graph on a machine without the transforms stays as it is."""

    def __call__(self, graph: Graph) -> None:
        suited = [node for node in graph.nodes if node.target in (FORWARD, BACKWARD) and is_suited(node)]
        if not suited or not is_available():
            return
        for node in suited:
            with graph.inserting_before(node):
                (_forward if node.target is FORWARD else _backward)(graph, node)
        graph.lint()

    def uuid(self) -> Any:
        """What decides the graph that comes out; the compiler remembers graphs by it."""
        files = (__file__, str(Path(__file__).with_name("convolution.py")), str(transforms.SOURCE))
        return get_hash_for_files(files, extra=str(is_available()))


def is_available() -> bool:
    try:
        transforms.library()
    except transforms.Unavailable:
        return False
    return True


def is_suited(node: Node) -> bool:
    """Whether a node of ``FORWARD`` or ``BACKWARD`` is a convolution that Winograd's does faster."""
    if node.target is FORWARD:
        images, kernels, _, *settings = node.args
    else:
        _, images, kernels, _, *settings, _ = node.args
    if settings != [ONES, ONES, ONES, False, [0, 0], 1]:
        return False
    seen, weights = _value(images), _value(kernels)
    if any(each.device.type != "cpu" or each.dtype != torch.float32 for each in (seen, weights)):
        return False
    outputs, channels, *size = weights.shape
    height, width = seen.shape[2:]
    filled = height * width / transforms.tiles_of(height, width) / transforms.TILE**2
    return (
        list(size) == [3, 3]
        and min(outputs, channels) >= LEAST_CHANNELS
        and outputs % transforms.LANES == channels % transforms.LANES == 0
        and filled >= LEAST_FILLED
    )


def _forward(graph: Graph, node: Node) -> None:
    images, kernels, bias = node.args[:3]
    made = _call(graph, winograd._opoverload, images, kernels)
    if bias is not None:
        shaped = _call(graph, torch.ops.aten.reshape.default, bias, [1, -1, 1, 1])
        made = _call(graph, torch.ops.aten.add.Tensor, made, shaped)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _backward(graph: Graph, node: Node) -> None:
    gradient, images, kernels, *_, wanted = node.args
    assert isinstance(wanted, list | tuple)
    both = _call(graph, winograd_backward._opoverload, gradient, images, kernels, bool(wanted[0]))
    for use in list(node.users):
        place = use.args[1]  # what uses an operation of several results takes one of them
        with graph.inserting_before(use):
            if place == 2:
                result = _call(graph, torch.ops.aten.sum.dim_IntList, gradient, [0, 2, 3])
            else:
                result = _call(graph, operator.getitem, both, place)
            use.replace_all_uses_with(result)
        graph.erase_node(use)
    graph.erase_node(node)


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """A node that calls ``target``, which knows what comes out."""
    node = graph.call_function(target, args)
    values = [_value(arg) if isinstance(arg, Node) else arg for arg in args]
    node.meta["val"] = target(*values)
    return node


def _value(node: Any) -> Any:
    return node.meta["val"]
