"""Which networks can be stacked: made of layers that have a counterpart, and alike in all but their numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gradlab.layers import PartlyFrozen, PreActivation, Residual, SamePool, Scale
from gradlab.models.networks.speed import SpeedNet
from gradlab.models.networks.vit import Attention, Block, VisionTransformer
from gradlab.stacked.layers import COUNTERPARTS
from gradlab.stacked.storage import Unstackable

ELEMENTWISE = {
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, Scale,
}  # fmt: skip
POOLS = {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.ZeroPad2d, SamePool}
SEQUENCES = {nn.Sequential, SpeedNet}
CONTAINERS = {nn.ModuleList, nn.ModuleDict, Residual, PreActivation, PartlyFrozen, Attention, Block}
KNOWN: set[type[nn.Module]] = {*COUNTERPARTS, *ELEMENTWISE, *POOLS, *SEQUENCES, *CONTAINERS, nn.Flatten}
"""Modules that treat every image of a batch alone, and draw no random numbers but with dropout."""

RANDOM = (
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
    nn.FractionalMaxPool2d,
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
NO_SETTINGS = {"training", "keeps_its_start"}


def check_stackable(network: nn.Module) -> None:
    """Whether every layer of ``network`` has a counterpart, or needs none.

    Raises:
        Unstackable: one has not; the message names it.
    """
    for name, module in network.named_modules():
        problem = _problem(module)
        if problem:
            where = f" at '{name}'" if name else ""
            raise Unstackable(f"{named(module)} layer{where}{problem}")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise Unstackable("a network that has nothing to train")


def _problem(module: nn.Module) -> str:
    """What speaks against a module: the end of a sentence; nothing where it is right."""
    if any(getattr(module, hooks, None) for hooks in HOOKS) or "forward" in module.__dict__:
        return ", which has a hook or a forward of its own"
    if isinstance(module, RANDOM):
        return ", which draws random numbers"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
        return " with momentum=None"
    if type(module) is nn.Embedding and (
        module.padding_idx is not None or module.max_norm is not None or module.sparse or module.scale_grad_by_freq
    ):
        return " with a padding index, a largest norm, sparse gradients or gradients scaled by frequency"
    if type(module) not in COUNTERPARTS and (module._parameters or module._buffers):
        return ", whose own parameters or buffers have no stacked form"
    return ""


def named(module: nn.Module) -> str:
    """``a Linear``, ``an Identity``."""
    kind = type(module).__name__
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def is_known(network: nn.Module) -> bool:
    """Whether nothing in ``network`` has a ``forward`` that we have not read: else it must be tried."""
    flattens = (module for module in network.modules() if isinstance(module, nn.Flatten))
    return all(type(module) in KNOWN for module in network.modules()) and all(each.start_dim > 0 for each in flattens)


def first_layer(network: nn.Module) -> nn.Module | None:
    """The layer that every image enters first, and once: it can see images that are shared. None where that is not known."""
    for layer in _opened(network):
        if type(layer) in ELEMENTWISE | POOLS or (isinstance(layer, nn.Flatten) and layer.start_dim > 0):
            continue
        uses = [module for _, module in network.named_modules(remove_duplicate=False) if module is layer]
        return layer if type(layer) in (nn.Linear, nn.Conv2d) and len(uses) == 1 else None
    return None


def _opened(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of nested sequences in their order."""
    if type(module) in SEQUENCES:
        for child in module.children():
            yield from _opened(child)
    elif isinstance(module, PartlyFrozen):
        yield from _opened(module.network)
    elif type(module) is VisionTransformer:
        yield module.patch_embedding
    else:
        yield module


def check_same(networks: Sequence[nn.Module]) -> None:
    """Whether the networks have one architecture: modules, settings, shapes and types, but for dropout rates.

    Raises:
        Unstackable: they have not; the message names the difference.
    """
    first = networks[0]
    described = _described(first)
    for network in networks[1:]:
        other = _described(network)
        for key in (*described, *other):
            if described.get(key) != other.get(key):
                raise Unstackable(f"networks that differ in {key}: {described.get(key)} and {other.get(key)}")
    trained = {(parameter.dtype, parameter.device) for parameter in first.parameters() if parameter.requires_grad}
    if len(trained) > 1:
        raise Unstackable(f"parameters of several types or devices: {sorted(map(str, trained))}")


def _described(network: nn.Module) -> dict[str, Any]:
    """All by which a network's computation may differ from another's, but for its numbers."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        path = name or "the whole"
        found[f"the kind of '{path}'"] = type(module)
        for key, value in vars(module).items():
            if not key.startswith("_") and key not in NO_SETTINGS and not (key == "p" and type(module) is nn.Dropout):
                found[f"'{path}.{key}'"] = value if _is_plain(value) else type(value)
    tensors: list[tuple[str, torch.Tensor]] = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in tensors:
        layout = tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad
        found[f"the shape, type, device or training of '{name}'"] = layout
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)
