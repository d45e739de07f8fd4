"""An optimizer's state as tensors for safetensors and plain values for JSON, and back, with the same bits."""

from collections.abc import Callable
from typing import Any

import torch

from gradlab.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def optimizer_state(
    optimizer: torch.optim.Optimizer, whole: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
) -> tuple[Tensors, dict[str, Any]]:
    """The state in two parts. Parameters are counted through the groups, from 0. ``whole`` is made of each tensor.

    Memory layouts are kept as ``strides``: an update of numbers that lie otherwise than their parameter's may round otherwise.
    Tensors are called ``<parameter>.<name>``, those in a group ``group.<group>.<name>``; the rest is ``numbers`` by the
    same names, and ``param_groups``. What JSON cannot hold in a group (such as a dtype) follows from the configuration and
    is left out.
    """
    everything = optimizer.state_dict()
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for index, values in everything["state"].items():
        for name, value in values.items():
            _take(value, f"{index}.{name}", tensors, numbers)
    # Ranks make them whole together, in one order; what was loaded from a file is in any.
    tensors = {path: whole(tensors[path]) for path in sorted(tensors)}
    groups = [{key: value for key, value in group.items() if _plain(value)} for group in everything["param_groups"]]
    for position, group in enumerate(everything["param_groups"]):
        own = {key: value for key, value in group.items() if isinstance(value, torch.Tensor)}
        tensors |= {f"group.{position}.{key}": value for key, value in own.items()}
    strides = {path: list(tensor.stride()) for path, tensor in tensors.items() if not tensor.is_contiguous()}
    return tensors, {"numbers": numbers, "param_groups": groups, "strides": strides}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Tensors, state: dict[str, Any], own_numbers: frozenset[str] = frozenset()
) -> None:
    """Put what ``optimizer_state`` gave into an optimizer built from the same configuration over the same network.

    Of the groups' numbers, those named in ``own_numbers`` stay as the optimizer was built with them.

    Raises:
        CheckpointError: it has other parameter groups, or tensors that do not fit the parameters.
    """
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    saved = state["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved]:
        raise CheckpointError("The checkpoint's optimizer has other parameter groups than this configuration makes.")
    # Opened from a file they lie anywhere in it, and sums over them may round as memory is aligned.
    tensors = {path: _laid_out(tensor, state.get("strides", {}).get(path)) for path, tensor in tensors.items()}
    groups = [
        {**group, **{key: value for key, value in told.items() if key not in own_numbers}}
        for group, told in zip(groups, saved, strict=True)
    ]
    for path in [path for path in tensors if path.startswith("group.")]:
        _, number, key = path.split(".")
        groups[int(number)][key] = tensors.pop(path)
    values: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *state["numbers"].items()]:
        index, name, *position = path.split(".")
        own = values.setdefault(int(index), {})
        if position:  # an entry of a list
            own.setdefault(name, []).append(value)
        else:
            own[name] = value
    _check_shapes(optimizer, tensors)
    _lay_as_weights(optimizer, values)
    # torch moves the state to the parameters' device, and floats to their dtype; the latter would change bits.
    optimizer.load_state_dict({"state": values, "param_groups": groups})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for path, tensor in tensors.items():
        index, name, *position = path.split(".")
        holder, key = optimizer.state[parameters[int(index)]], name
        if position:
            holder, key = holder[name], int(position[0])  # type: ignore[assignment]
        if holder[key].dtype != tensor.dtype:
            holder[key] = tensor.to(holder[key].device)


def _lay_as_weights(optimizer: torch.optim.Optimizer, values: dict[int, dict[str, Any]]) -> None:
    """Have state lie where its weights do: spread over ranks as they are (``devices/sharded.py``), or in their order of numbers.

    What was gathered from ranks is contiguous, and torch's fused kernels go through weight and state number by number.
    """
    parameters = [(each, group) for group in optimizer.param_groups for each in group["params"]]
    for index in sorted(values):
        parameter, group = parameters[index]
        spreads = hasattr(parameter, "device_mesh")
        for name, value in sorted(values[index].items()):
            if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
                continue
            if spreads:
                from gradlab.devices.sharded import spread

                values[index][name] = spread(value, parameter)
            elif group.get("fused") and value.stride() != parameter.stride():
                values[index][name] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def _check_shapes(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Refuse what torch's fused kernels would follow out of its memory: they read as many numbers as the parameter has, unasked."""
    parameters = [(each, group) for group in optimizer.param_groups for each in group["params"]]
    for path, tensor in tensors.items():
        index, name, *_ = path.split(".")
        parameter, group = parameters[int(index)]
        wanted = torch.Size() if name == "step" else parameter.shape
        if group.get("fused") and tensor.shape != wanted:
            raise CheckpointError(
                f"The checkpoint's optimizer does not fit this network: '{name}' of parameter {index} has the shape "
                f"{list(tensor.shape)}, and {list(wanted)} is needed. It is damaged or forged; go on with an earlier checkpoint."
            )


def _laid_out(tensor: torch.Tensor, strides: list[int] | None) -> torch.Tensor:
    """A copy of ``tensor`` with ``strides``; contiguous without any.

    Raises:
        CheckpointError: so it would lie over itself or have gaps, which nothing that was saved does.
    """
    if strides is None:
        return tensor.clone()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if min(strides) < 0 or extent != tensor.numel():
        raise CheckpointError(
            f"The checkpoint's optimizer has a tensor of shape {list(tensor.shape)} with strides {strides}."
        )
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _take(value: Any, path: str, tensors: Tensors, numbers: dict[str, Any]) -> None:
    if isinstance(value, torch.Tensor):
        tensors[path] = value
    elif isinstance(value, list | tuple) and any(isinstance(entry, torch.Tensor) for entry in value):
        for position, entry in enumerate(value):
            tensors[f"{path}.{position}"] = entry
    elif _plain(value):
        numbers[path] = value


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)
