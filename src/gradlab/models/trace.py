"""What a network does with one image: every call of every layer, its output, its size, and where shortcuts join.

From one forward pass with hooks. The layer table, the multiply-adds and the picture of a run are made of it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

INPUT = -1  # what made the image
WHOLE = ("Attention", "SqueezeExcit", "SEModule")  # shown as one thing, whatever is inside


@dataclass
class Call:
    """One call of a layer (or one addition of two paths) in the order in which they begin.

    index: place in the trace.
    name: of the layer in the network, as ``blocks.0.norm``; empty for the network itself.
    kind: its class; ``+`` for an addition.
    parent: index of the call that it is part of; None for the network itself.
    depth: how many calls it is within.
    sources: what made its inputs: indices of leaves and additions, or ``INPUT``.
    shape: of the output, without the batch.
    parameters: of the layer and all within it; 0 where an earlier call has shown them.
    trained: how many of those want a gradient.
    multiply_adds: of one image, within this call.
    leaf: nothing within it is shown.
    layer: the layer itself; None for an addition.
    """

    index: int
    name: str
    kind: str
    parent: int | None
    depth: int
    sources: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    parameters: int = 0
    trained: int = 0
    multiply_adds: int = 0
    leaf: bool = True
    layer: "nn.Module | None" = field(default=None, repr=False)


def trace(model: "nn.Module", image_shape: tuple[int, ...]) -> list[Call]:
    """Every call that one image causes, the network's own first; the network is left as it was.

    Multiply-adds are those of matrix products and convolutions, within attention too; additions, norms and activations are
    not counted.
    """
    import torch
    from torch import nn
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    calls: list[Call] = []
    open_calls: list[Call] = []
    made_by: dict[int, int] = {}  # id of a tensor → index of the call that made it
    alive: list[Any] = []  # so that no id is used twice
    shown: set[int] = set()
    hidden = 0  # how many of the open calls are shown as one thing

    def tensors(values: Any) -> list[torch.Tensor]:
        found = []
        for value in values if isinstance(values, list | tuple) else [values]:
            found += (
                [value]
                if isinstance(value, torch.Tensor)
                else tensors(value)
                if isinstance(value, tuple | list)
                else []
            )
        return found

    def sources(values: Any) -> tuple[int, ...]:
        return tuple(sorted({made_by[id(value)] for value in tensors(values) if id(value) in made_by}))

    def made(values: Any, index: int) -> None:
        for value in tensors(values):
            alive.append(value)
            made_by[id(value)] = index

    def begin(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any) -> None:
            nonlocal hidden
            if hidden == 0:
                new = [each for each in layer.parameters() if id(each) not in shown]
                call = Call(
                    index=len(calls), name=name, kind=type(layer).__name__,
                    parent=open_calls[-1].index if open_calls else None, depth=len(open_calls), sources=sources(inputs),
                    parameters=sum(each.numel() for each in new),
                    trained=sum(each.numel() for each in new if each.requires_grad),
                    multiply_adds=-counter.get_total_flops() // 2, layer=layer,
                )  # fmt: skip
                if open_calls:
                    open_calls[-1].leaf = False
                calls.append(call)
                open_calls.append(call)
            hidden += 1 if hidden or any(word in type(layer).__name__ for word in WHOLE) else 0

        return hook

    def end(layer: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal hidden
            hidden -= 1 if hidden else 0
            if hidden:
                return
            call = open_calls.pop()
            call.multiply_adds += counter.get_total_flops() // 2
            outputs = tensors(output)
            call.shape = tuple(outputs[0].shape[1:]) if outputs else ()
            if call.leaf:
                shown.update(map(id, layer.parameters()))
                made(output, call.index)

        return hook

    class Follow(TorchDispatchMode):
        """Passes on what made a tensor, and notes where two paths are added."""

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = function(*args, **(kwargs or {}))
            makers = sources(list(args))
            if not makers:
                return output
            adds = function in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
            inside = open_calls[-1] if open_calls else None
            if adds and len(makers) == 2 and hidden == 0 and inside is not None:
                inside.leaf = False
                call = Call(len(calls), "", "+", inside.index, len(open_calls), makers, tuple(output.shape[1:]))
                calls.append(call)
                made(output, call.index)
            else:
                made([each for each in tensors(output) if id(each) not in made_by], makers[-1])
            return output

    counter = FlopCounterMode(display=False)
    follow: TorchDispatchMode = Follow()  # type: ignore[no-untyped-call]
    hooks = []
    for name, layer in model.named_modules():
        hooks += [layer.register_forward_pre_hook(begin(name, layer)), layer.register_forward_hook(end(layer))]
    modes = {layer: layer.training for layer in model.modules()}
    start = next(iter(model.parameters()), torch.zeros(0))
    images = torch.zeros(1, *image_shape, dtype=start.dtype, device=start.device)
    made(images, INPUT)
    fast, threads = torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # for one image, threads wait for each other longer than they work
        torch.backends.mha.set_fastpath_enabled(False)  # one fused operation that the counter does not know
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, follow:
            model.eval()(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_num_threads(threads)
        for layer, training in modes.items():
            layer.training = training
        for hook in hooks:
            hook.remove()
    return calls
