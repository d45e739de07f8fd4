"""What is changed in the graph of a compiled step on a CPU: operations that can be had faster than torch's compiler has them."""

import operator
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from gradlab.cpu import choice, direct, library, pooling, winograd

FORWARD, BACKWARD = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default
SCATTER, RESHAPE = torch.ops.aten.scatter_add.default, torch.ops.aten.reshape.default
COPIES = (RESHAPE, torch.ops.aten.view.default, torch.ops.aten.clone.default)
INDICES = "prims._low_memory_max_pool_offsets_to_indices.default"
"""Which is there only once torch's compiler is."""


class Rewriting(CustomGraphPass):  # type: ignore[misc] # torch has no types for it
    """Puts our operations into a graph, where they are the same and faster. A machine that cannot compile them keeps torch's."""

    def __call__(self, graph: Graph) -> None:
        if not library.is_available():
            return
        for node in list(graph.nodes):
            if node.target is SCATTER:
                _pooled(graph, node)
            elif way := way_for(node):
                with graph.inserting_before(node):
                    (_forward if node.target is FORWARD else _backward)(graph, node, way)
        graph.lint()

    def uuid(self) -> Any:
        """What decides the graph that comes out; the compiler remembers graphs by it."""
        files = (
            __file__,
            *(str(module.__file__) for module in (choice, direct, pooling, winograd)),
            *map(str, library.FILES),
        )
        return get_hash_for_files(files, extra=str(library.is_available()))


def way_for(node: Node) -> str | None:
    """``winograd`` or ``direct``, where a node is a convolution, or the derivative of one, that this does faster."""
    if node.target is FORWARD:
        images, kernels, _, stride, border, dilation, transposed, _, groups = node.args
    elif node.target is BACKWARD:
        _, images, kernels, _, stride, border, dilation, transposed, _, groups, _ = node.args
    else:
        return None
    seen, weights = _value(images), _value(kernels)
    if any(each.device.type != "cpu" or each.dtype != torch.float32 for each in (seen, weights)):
        return None
    if [stride, dilation, transposed] != [[1, 1], [1, 1], False]:
        return None
    numbers: Any = border, groups
    return choice.way_of(weights.shape, seen.shape[2:], *numbers)


def _forward(graph: Graph, node: Node, way: str) -> None:
    images, kernels, bias, _, border, *_, groups = node.args
    if way == "winograd":
        made = _call(graph, torch.ops.gradlab.winograd.default, images, kernels)
    else:
        made = _call(graph, torch.ops.gradlab.direct.default, images, kernels, border, groups)
    if bias is not None:
        shaped = _call(graph, RESHAPE, bias, [1, -1, 1, 1])
        made = _call(graph, torch.ops.aten.add.Tensor, made, shaped)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _backward(graph: Graph, node: Node, way: str) -> None:
    gradient, images, kernels, _, _, border, *_, groups, wanted = node.args
    assert isinstance(wanted, list | tuple)
    by_images = bool(wanted[0])
    if way == "winograd":
        both = _call(graph, torch.ops.gradlab.winograd_backward.default, gradient, images, kernels, by_images)
    else:
        operation = torch.ops.gradlab.direct_backward.default
        both = _call(graph, operation, gradient, images, kernels, border, groups, by_images)
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


def _pooled(graph: Graph, node: Node) -> None:
    """Replaces ``node`` where it is the derivative of max pooling whose windows touch and do not overlap."""
    _, _, indices, gradient = node.args
    indices = _source(indices)
    if str(indices.target) != INDICES or _value(node).device.type != "cpu" or _value(node).dtype != torch.float32:
        return
    chosen, window, size, stride, border, dilation = indices.args
    shape = _value(chosen).shape
    touching = stride == window and border == [0, 0] and dilation == [1, 1]
    if not touching or [own * each for own, each in zip(shape[2:], window, strict=True)] != size:
        return
    # Through the shape of the scattering, [images · channels, pixels], no order but one is kept without copying.
    uses = [use for use in node.users if use.target in COPIES and _value(use).shape == (*shape[:2], *size)]
    source = _source(gradient, shape)
    if len(uses) < len(node.users) or _value(source).shape != shape:
        return
    with graph.inserting_before(node):
        pixels = _call(graph, torch.ops.gradlab.pool_backward.default, source, chosen, window)
    for use in uses:
        use.replace_all_uses_with(pixels)
        graph.erase_node(use)
    graph.erase_node(node)


def _source(node: Any, shape: torch.Size | None = None) -> Any:
    """What ``node`` has its numbers from, where it only brings them into another shape or order; of this shape, where there is one."""
    while node.target in COPIES and _value(node).shape != shape:
        node = node.args[0]
    return node


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """A node that calls ``target``, which knows what comes out."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*(_value(arg) if isinstance(arg, Node) else arg for arg in args))
    return node


def _value(node: Any) -> Any:
    return node.meta["val"]
