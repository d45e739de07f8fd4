"""One network spread over the ranks of a training, a part of every weight to each: torch's FSDP2, for what does not fit one device.

Each rank keeps its rows of every weight, of its gradient and of the optimizer's state for it, and has a block of the network
whole only while that is computed. What is one tensor elsewhere is here a ``DTensor``; ``whole``, which all ranks must ask for
together, and ``spread`` turn one into the other.
"""

from collections.abc import Iterator

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gradlab.devices.batch_norm import normalise_together

Tensors = dict[str, torch.Tensor]


def spread_over_ranks(model: nn.Module, device: torch.device) -> None:
    """Have every rank keep its part of ``model``'s weights only, on its ``device``. They are alike on all ranks before."""
    normalise_together(model)
    for parameter in model.parameters():  # those of convolutions lie channels last, which FSDP does not take
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for module in [*_blocks(model), model]:
        # The outermost as well gives its weights up after each pass, so that ``parameters()`` are parts at all times.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """What is made whole at one time: the network's own children, and in place of a list or sequence its entries."""
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, on the CPU where it was spread: there it fits."""
    if not isinstance(tensor, DTensor):
        return tensor
    full: torch.Tensor = tensor.full_tensor()
    return full.cpu()


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that all ranks have, where ``like`` is a part; else ``tensor``."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    here = tensor.to(like.device).contiguous()
    part: torch.Tensor = distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
    return part


def load_whole(model: nn.Module, tensors: Tensors) -> None:
    """``model.load_state_dict`` of whole tensors, which all ranks have."""
    own = model.state_dict()
    model.load_state_dict(
        {name: spread(tensor, own[name]) if name in own else tensor for name, tensor in tensors.items()}
    )


def adopt_of_rank_0(model: nn.Module, tensors: Tensors | None) -> None:
    """Have all ranks take over ``tensors``, whole, which rank 0 alone has; one after the other, as they may not fit together."""
    with torch.no_grad():
        for name, own in model.state_dict().items():
            given = torch.empty(own.shape, dtype=own.dtype) if tensors is None else tensors[name]
            given = given.to(device=own.device, dtype=own.dtype).contiguous()
            distributed.broadcast(given, 0)
            own.copy_(spread(given, own))
