"""Where the parameters of the members lie in the rows of ``flat``, and views of what lies there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Entry:
    """A parameter, the same in every member.

    position: among the gradients that a step is given.
    start: its first column in ``flat``.
    own_start: its first column in the state of its part.
    group: its parameter group, counted among those of its part.
    shape, stride: of one member's tensor, which is dense in its columns.
    """

    position: int
    start: int
    own_start: int
    group: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many columns it has."""
        return torch.Size(self.shape).numel()

    @property
    def order(self) -> list[int]:
        """Its dimensions as they lie in memory, the outermost first; one of size 1 lies anywhere."""
        return sorted(range(len(self.shape)), key=lambda dim: -self.stride[dim])

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` [members, *shape] as [members, columns] in the order of ``flat``: a view where it lies like that."""
        order = [1 + dim for dim in self.order]
        return tensor.permute(0, *order).reshape(tensor.shape[0], -1)

    def view(self, rows: torch.Tensor, start: int) -> torch.Tensor:
        """The columns of ``rows`` from ``start`` on as [members, *shape], a view."""
        order = self.order
        lying = rows[:, start : start + self.size].view(-1, *(self.shape[dim] for dim in order))
        inverse = sorted(range(len(order)), key=lambda place: order[place])
        return lying.permute(0, *(1 + place for place in inverse))

    def members(self, rows: torch.Tensor, start: int) -> list[torch.Tensor]:
        """The columns of ``rows`` from ``start`` on as a tensor for each member, with the strides of its parameter."""
        offset = rows.storage_offset() + start
        stacked = rows.as_strided((rows.shape[0], *self.shape), (rows.stride(0), *self.stride), offset)
        return list(stacked.unbind(0))

    def lies_alike(self, stacked: torch.Tensor) -> bool:
        """Whether every member's part of ``stacked`` [members, *shape] lies in memory as its parameter does."""
        given = zip(self.shape, self.stride, stacked.stride()[1:], strict=True)
        return all(size == 1 or own == other for size, own, other in given)

    def aligned(self, stacked: torch.Tensor) -> torch.Tensor:
        """``stacked`` [members, *shape], with every member's part in memory as its parameter; a copy only if it is not."""
        if self.lies_alike(stacked):
            return stacked
        strides = (self.size, *self.stride)
        return torch.empty_strided(stacked.shape, strides, dtype=stacked.dtype, device=stacked.device).copy_(stacked)


@dataclass(frozen=True)
class Run:
    """Neighbouring parameters: columns ``start`` … of ``flat`` and ``own_start`` … of the part's state, side by side in both."""

    entries: tuple[Entry, ...]

    @property
    def start(self) -> int:
        return self.entries[0].start

    @property
    def own_start(self) -> int:
        return self.entries[0].own_start

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


def runs_of(entries: Sequence[Entry]) -> list[Run]:
    """``entries``, in the order of their columns, in as few runs as possible."""
    runs: list[list[Entry]] = []
    for entry in entries:
        if runs and runs[-1][-1].start + runs[-1][-1].size == entry.start:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return [Run(tuple(run)) for run in runs]


@dataclass(frozen=True)
class Piece:
    """Columns ``start`` … ``stop`` of an entry."""

    entry: Entry
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Neighbouring columns few enough for a step's tensors of one member to stay in the cache."""

    pieces: tuple[Piece, ...]

    @property
    def start(self) -> int:
        return self.pieces[0].entry.start + self.pieces[0].start

    @property
    def own_start(self) -> int:
        return self.pieces[0].entry.own_start + self.pieces[0].start

    @property
    def size(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Pairs of a parameter group and how many columns it has, from left to right."""
        found: list[tuple[int, int]] = []
        for piece in self.pieces:
            group, size = piece.entry.group, piece.stop - piece.start
            if found and found[-1][0] == group:
                size += found.pop()[1]
            found.append((group, size))
        return found


def blocks_of(run: Run, longest: int) -> list[Block]:
    """``run`` cut into blocks of at most ``longest`` columns; only a parameter that is longer is cut itself."""
    blocks: list[list[Piece]] = []
    room = 0
    for entry in run.entries:
        for start in range(0, entry.size, longest):
            piece = Piece(entry, start, min(start + longest, entry.size))
            size = piece.stop - piece.start
            if size > room:
                blocks.append([])
                room = longest
            blocks[-1].append(piece)
            room -= size
    return [Block(tuple(block)) for block in blocks]
