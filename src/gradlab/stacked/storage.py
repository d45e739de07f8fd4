"""Where the numbers of stacked networks lie: one row to a member, shared by the member network and the stacked one.

Nothing is ever copied between the two: a member's parameters and buffers are views of its row, the stacked ones views of
all rows. So what the stacked computation writes (gradient steps, BatchNorm's statistics) is at once the member's, and a
member's state_dict, optimizer and averages work on it as on any network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

ALIGNMENT = 16
"""In numbers. A row begins like a tensor of its own: matrix products round differently where the memory is aligned otherwise."""


class Unstackable(Exception):  # noqa: N818 - no mistake of the user's: such networks train one after the other
    """Networks that cannot be computed as one. The message is one line: which layer, and why."""


@dataclass(frozen=True)
class Layout:
    """The order of a tensor's numbers in memory; ``channels_last`` where that of a 4-D tensor is [0, 2, 3, 1]."""

    shape: torch.Size
    channels_last: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Layout":
        if tensor.dim() != 4:
            return cls(tensor.shape, False)
        like = torch.empty_like(tensor, device="meta", memory_format=torch.channels_last)
        # By strides, not by is_contiguous: of one channel both orders are, and convolutions choose by the strides.
        return cls(tensor.shape, tensor.stride() == like.stride())

    def view(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [..., numbers] as tensors [..., *shape], without a copy."""
        leading = rows.shape[:-1]
        if not self.channels_last:
            return rows.view((*leading, *self.shape))
        filters, channels, height, width = self.shape
        return rows.view(*leading, filters, height, width, channels).movedim(-1, -3)


class Storage:
    """The tensors of ``networks``, moved into shared storage; the networks are re-pointed to it.

    Args:
        networks: of one architecture, on one device; see ``same.check_same``.

    Attributes:
        flat: [members, numbers], all that is trained; there may be a gap between rows.
        columns: of each trained parameter by its name, its range [a, b) in ``flat``.
        parameters: each trained parameter, [members, *shape], a leaf that requires gradients and a view of ``flat``.
        frozen: the parameters that are not trained, [members, *shape].
        buffers: [members, *shape].
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        members, first = len(networks), networks[0]
        own = [dict(network.named_parameters()) for network in networks]
        layouts = {name: Layout.of(parameter) for name, parameter in own[0].items()}
        trained = [name for name, parameter in own[0].items() if parameter.requires_grad]
        self.columns: dict[str, tuple[int, int]] = {}
        numbers = 0
        for name in trained:
            self.columns[name] = numbers, numbers + own[0][name].numel()
            numbers = self.columns[name][1]
        self.flat = _rows(own[0][trained[0]], members, numbers)
        self.parameters: dict[str, nn.Parameter] = {}
        self.frozen: dict[str, nn.Parameter] = {}
        for name, layout in layouts.items():
            if name in self.columns:
                a, b = self.columns[name]
                rows = self.flat[:, a:b]
            else:
                rows = _rows(own[0][name], members, own[0][name].numel())
            _move([each[name] for each in own], rows, layout)
            stacked = nn.Parameter(layout.view(rows), requires_grad=name in self.columns)
            (self.parameters if name in self.columns else self.frozen)[name] = stacked
        self.buffers: dict[str, torch.Tensor] = {}
        for name, buffer in first.named_buffers():
            rows = buffer.new_empty(members, buffer.numel())
            layout = Layout.of(buffer)
            _move([network.get_buffer(name) for network in networks], rows, layout)
            self.buffers[name] = layout.view(rows)

    def counterparts(self, first: nn.Module) -> dict[int, torch.Tensor]:
        """The stacked tensor of each parameter and buffer of the first network, by that one's ``id``."""
        stacked = {**self.parameters, **self.frozen, **self.buffers}
        own = [*first.named_parameters(), *first.named_buffers()]
        return {id(tensor): stacked[name] for name, tensor in own}


def _rows(like: torch.Tensor, members: int, numbers: int) -> torch.Tensor:
    """Empty [members, numbers] whose rows begin at multiples of ALIGNMENT."""
    return like.new_empty(members, -(-numbers // ALIGNMENT) * ALIGNMENT)[:, :numbers]


@torch.no_grad()
def _move(own: list[torch.Tensor], rows: torch.Tensor, layout: Layout) -> None:
    """Copy each member's tensor into its row and make it a view of that. It stays the same Python object."""
    for tensor, row in zip(own, rows, strict=True):
        view = layout.view(row)
        view.copy_(tensor)
        tensor.data = view


@torch.no_grad()
def release(network: nn.Module) -> None:
    """Give a network tensors of its own again."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()
