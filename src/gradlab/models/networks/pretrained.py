"""Fitting a library's network to our data: its input channels, weights from a file, and frozen parts."""

import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gradlab.errors import ConfigError, did_you_mean
from gradlab.layers import PartlyFrozen, keep

log = logging.getLogger("gradlab.models")

WRAPPERS = ("model.", "module.", "network.", "_orig_mod.")  # ours, DataParallel's, PartlyFrozen's, torch.compile's
CONTAINERS = ("state_dict", "model_state_dict", "model", "state_dict_ema")
SAFE_TORCH = "2.10"
"""From this torch on ``torch.load(weights_only=True)`` has no known hole: CVE-2025-32434 was closed in 2.6, CVE-2026-24747 here."""
EXTRA_HEADS = ("aux", "AuxLogits")  # of googlenet and inception_v3, which help training at 299×299 only


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The first convolution and its name, in the order in which the network lists its parts."""
    named = ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    return next(named, None)


def last_layer(network: nn.Module) -> nn.Module:
    """The last linear or convolution layer: the one that makes the logits."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]


def with_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A first convolution's weight [out, in, height, width] for another number of input channels.

    One channel gets the sum over all: a grey image then gives what the same image in grey colours gave. Otherwise the
    channels are repeated in turn and scaled, so that the output keeps its size.
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // given), 1, 1)[:, :channels]
    return repeated * (given / channels)


@torch.no_grad()
def fit_channels(network: nn.Module, channels: int) -> None:
    """Make the first convolution take ``channels`` input channels."""
    found = first_convolution(network)
    if found is None or found[1].in_channels == channels:
        return
    layer = found[1]
    layer.weight = nn.Parameter(with_channels(layer.weight, channels))
    layer.in_channels = channels


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by their names, without the prefix that a wrapper gave to all of them.

    Raises:
        ConfigError: the file cannot be read, or holds more than tensors.
    """
    try:
        if path.is_dir():
            path = path / "tensors.safetensors"
        content: Any
        if path.suffix == ".safetensors":
            content = load_file(path)
        elif torch.__version__ < SAFE_TORCH:
            raise ConfigError(
                f"model.pretrained={path} is no .safetensors file, and torch {torch.__version__} can be made to run code by "
                f"others (CVE-2026-24747). Install torch {SAFE_TORCH} or newer, or have the weights in safetensors."
            )
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch's, on a pickle that it is about to refuse
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"model.pretrained={path} holds more than tensors and is not opened, because it could run any code. Save its "
            "state_dict with safetensors.torch.save_file where you trust it."
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(
            f"model.pretrained={path} cannot be read: {(str(error) or 'it is empty').splitlines()[0]}."
        ) from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise ConfigError(f"model.pretrained={path} is no state_dict: it must hold tensors by their names.")
    while content and any(all(name.startswith(prefix) for name in content) for prefix in WRAPPERS):
        content = {name.partition(".")[2]: tensor for name, tensor in content.items()}
    tensors: dict[str, torch.Tensor] = content
    return tensors


@torch.no_grad()
def load_weights(network: nn.Module, path: Path, heads: list[nn.Module]) -> None:
    """Copy a file's weights into ``network`` and mark its layers as kept; says what did not fit.

    ``heads``, the last layers, may be for other classes and are then left as they are; the first convolution may be for other channels.

    Raises:
        ConfigError: the file cannot be read, or weights beside those are missing or have another shape.
    """
    tensors = read_weights(path)
    first = first_convolution(network)
    first_weight = first[1].weight if first else None
    in_head = {id(parameter) for head in heads for parameter in head.parameters()}
    loaded: set[int] = set()
    missing, misfits, anew, notes = [], [], [], []
    ours = dict(network.named_parameters()) | dict(network.named_buffers())
    for name in network.state_dict():
        mine, theirs = ours[name], tensors.get(name)
        if theirs is not None and mine is first_weight and _differ_in_channels(theirs, mine):
            notes.append(f"{name} is fitted from {theirs.shape[1]} to {mine.shape[1]} channels")
            theirs = with_channels(theirs, mine.shape[1])
        if theirs is not None and theirs.shape == mine.shape:
            mine.copy_(theirs)
            loaded.add(id(mine))
        elif id(mine) in in_head:
            anew.append(name)
        elif theirs is not None:
            misfits.append(f"{name} is {_shape(theirs)} and must be {_shape(mine)}")
        elif not name.endswith("num_batches_tracked"):
            missing.append(name)
    unused = [name for name in tensors if name not in ours and not name.startswith(EXTRA_HEADS)]
    if missing or misfits:
        problems = [*misfits, *([f"{_some(missing)} missing"] if missing else [])]
        raise ConfigError(
            f"model.pretrained={path} does not fit model.arch: {'; '.join(problems[:4])}"
            f"{f'; not in the network: {_some(unused)}' if unused else ''}. Choose the architecture and image size that "
            "the weights were trained with."
        )
    for layer in network.modules():
        own = list(layer.parameters(recurse=False))
        if own and not list(layer.children()) and all(id(parameter) in loaded for parameter in own):
            keep(layer)
    if anew:
        notes.append(f"{_some(anew)} begin anew: the file's are for other classes")
    if unused:
        notes.append(f"the file's {_some(unused)} are not used")
    if notes:
        log.warning("model.pretrained=%s: %s.", path, "; ".join(notes))


def freeze(network: nn.Module, what: str | list[str], heads: list[nn.Module]) -> nn.Module:
    """``network`` with the parts named by ``model.freeze`` frozen.

    Raises:
        ConfigError: a name begins none of the network's, or nothing would be left to train.
    """
    if what in ("none", []):
        return network
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters())
    if what == "backbone":
        trained = {module for head in heads for module in head.modules()}
        above = {module for module in modules.values() if any(part in trained for part in module.modules())}
        frozen = [module for module in modules.values() if module not in above]
        kept = {id(parameter) for head in heads for parameter in head.parameters()}
        singles = [parameter for parameter in parameters.values() if id(parameter) not in kept]
    else:

        def chosen(name: str) -> bool:
            return any(name == part or name.startswith(f"{part}.") for part in what)

        for part in what:
            if not any(name == part or name.startswith(f"{part}.") for name in (*modules, *parameters)):
                outer = sorted({name.split(".")[0] for name in parameters})
                raise ConfigError(
                    f"model.freeze: no part of the network is called '{part}'.{did_you_mean(part, [*modules, *parameters])} "
                    f"Its outermost parts are {', '.join(outer)}."
                )
        frozen = [module for name, module in modules.items() if chosen(name)]
        singles = [parameter for name, parameter in parameters.items() if chosen(name)]
    partly = PartlyFrozen(network, frozen, singles)
    if not any(parameter.requires_grad for parameter in partly.parameters()):
        raise ConfigError(
            "model.freeze leaves nothing to train. Leave the last layer out of it, as model.freeze=backbone does."
        )
    return partly


def _differ_in_channels(theirs: torch.Tensor, mine: torch.Tensor) -> bool:
    """Whether two convolutions' weights differ in the number of input channels, and in that only."""
    if theirs.dim() != mine.dim():
        return False
    return theirs.shape[1] != mine.shape[1] and theirs.select(1, 0).shape == mine.select(1, 0).shape


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
