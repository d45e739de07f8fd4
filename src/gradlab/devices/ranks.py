"""What the processes of one training over several devices do together: split batches, add up, agree. Each is a *rank*.

Every rank makes the whole mini-batch, as a training on one device does, and takes its part of it: so order, augmentation and
mixing are those of one device, and the step is that of the whole batch up to rounding. torch's DistributedDataParallel
brings the gradients together; a part counts by its size, so parts need not be alike.
"""

import inspect
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gradlab.data.device import Batch
from gradlab.devices.batch_norm import normalise_together
from gradlab.interruption import Interruption

_BUFFERS = "forward_sync_buffers"
if _BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _BUFFERS = "broadcast_buffers"  # as older versions of torch call it
"""Of DistributedDataParallel: whether rank 0's buffers are sent to all before every step. They are alike anyway."""
PATIENCE = timedelta(minutes=10)
"""After which a rank that hears nothing of the others fails."""


class Ranks:
    """This process among those of one training.

    Args:
        rank: its number; that of the run's own process is 0.
        size: how many there are.
        port: at which rank 0 listens on this machine.
        sharded: whether each keeps a part of the network (FSDP) rather than all of it (DDP).

    ``interruption`` is what rank 0 was told when all agreed last: ranks stop at the same step.
    """

    def __init__(self, rank: int, size: int, port: int, sharded: bool = False) -> None:
        self.rank = rank
        self.size = size
        self.port = port
        self.sharded = sharded
        self.interrupted = False

    def strategy(self) -> DDPStrategy:
        """Lightning's, for processes that are there already."""
        kind = _Sharded if self.sharded else _Together
        return kind(cluster_environment=_Started(self.rank, self.size, self.port), timeout=PATIENCE)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """``model``, so that its gradients after ``backward`` are the mean over the ranks; their weights are rank 0's from here."""
        if self.sharded:
            return model  # it was spread as it came to its device
        normalise_together(model)
        device = next(model.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        buffers: dict[str, Any] = {_BUFFERS: False}
        return DistributedDataParallel(model, device_ids=ids, **buffers)

    def part(self, batch: Batch) -> Batch:
        """This rank's part of a mini-batch."""
        return Batch(*(None if whole is None else whole.tensor_split(self.size)[self.rank] for whole in batch))  # type: ignore[arg-type]

    def gathered(self, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """The rows of all ranks, in the order of one device.

        Args:
            rows: this rank's, [rows, columns]: of each batch those of its part.
            sizes: of the whole batches.
        """
        longest = sum(-(-size // self.size) for size in sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded)
        parts = [[len(part) for part in torch.empty(size).tensor_split(self.size)] for size in sizes]
        split = [
            found[rank].split([*lengths, longest - sum(lengths)])
            for rank, lengths in enumerate(zip(*parts, strict=True))
        ]
        return torch.cat([split[rank][batch] for batch in range(len(sizes)) for rank in range(self.size)])

    def sum(self, told: torch.Tensor) -> torch.Tensor:
        """The sums over all ranks of the first two rows, [loss, right answers; steps]; other rows are the same everywhere."""
        added = told[:2].contiguous()
        distributed.all_reduce(added)
        return torch.cat([added, told[2:]])

    def agree(self, seconds: float, interruption: Interruption, point: str | None, device: torch.device) -> float:
        """What rank 0 says: the time that a chunk took, and whether the training is to end after it."""
        pruned = point in interruption.pruned
        said = torch.tensor([seconds, float(interruption()), float(pruned)], dtype=torch.float64).to(device)
        distributed.broadcast(said, 0)
        seconds, interrupted, pruned = said.tolist()
        self.interrupted = bool(interrupted)
        if pruned and self.rank:
            interruption.pruned[point or ""] = "rank 0 says so"
        return float(seconds)

    def told(self, said: bool, device: torch.device) -> bool:
        """What rank 0 says; of the others ``said`` does not matter."""
        word = torch.tensor(int(said)).to(device)
        distributed.broadcast(word, 0)
        return bool(word)

    def leave(self) -> None:
        """The training is over, for this rank at least."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def status(self, status: str, device: torch.device) -> str:
        """How the training ended, as rank 0 sees it: a signal may have come to it alone."""
        names = ["finished", "diverged", "pruned", "killed"]
        said = torch.tensor(names.index(status)).to(device)
        distributed.broadcast(said, 0)
        return names[int(said)]


class _Together(DDPStrategy):
    """Lightning's DDP, but that not its module is wrapped: one training step of it makes many optimizer steps."""

    def configure_ddp(self) -> None:
        """Nothing: ``Ranks.wrapped`` wraps the network itself."""


class _Sharded(_Together):
    """The same for a network of which each rank keeps a part."""

    def model_to_device(self) -> None:
        """Spread it, before any device has had all of it; an optimizer is built after this."""
        from torch.distributed.fsdp import FSDPModule

        module: Any = self.lightning_module
        if not isinstance(module.learner.model, FSDPModule):
            module.learner.spread(self.root_device)
        super().model_to_device()
        # Before a test Lightning sends rank 0's weights to all; here each has its own part of them.
        module._ddp_params_and_buffers_to_ignore = [name for name, _ in module.named_parameters()]


class _Started(ClusterEnvironment):
    """Processes on this machine that gradlab has started (``launch.py``)."""

    def __init__(self, rank: int, size: int, port: int) -> None:
        super().__init__()
        self._rank, self._size, self._port = rank, size, port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._size

    def set_world_size(self, size: int) -> None:
        assert size == self._size

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._rank

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0
