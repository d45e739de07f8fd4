"""How many workers a sweep has, and what each may use: CPU threads, and a GPU where the sweep trains on GPUs."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradlab.config import Config
from gradlab.errors import ConfigError
from gradlab.sweeps.settings import Launching

WORKER_MEMORY = 1 << 30
"""Bytes that a worker on the CPU is taken to need: torch, Lightning and small data are about 0.7 GiB."""


@dataclass(frozen=True)
class Seat:
    """What one worker may use.

    threads: of the CPU, at most.
    device: what CUDA_VISIBLE_DEVICES is for it; empty for a worker that trains on the CPU.
    """

    threads: int
    device: str

    def environment(self) -> dict[str, str]:
        """The variables that tell a worker process its seat."""
        return {
            "GRADLAB_CORES": str(self.threads),
            "OMP_NUM_THREADS": str(self.threads),
            "CUDA_VISIBLE_DEVICES": self.device,
        }


def seats(settings: Launching, configs: Sequence[Config], cores: int, memory: int, gpus: Sequence[str]) -> list[Seat]:
    """The seats of a sweep's workers.

    On the CPU a worker has one thread, or as many as ``trainer.threads`` says or as ``workers`` leave to it. That does not
    depend on how many points there are or on the machine's load: a resumed point must have the same bits. Threads are
    limited, not bound to cores: two sweeps on one machine would bind themselves to the same.

    Args:
        settings: of the launcher.
        configs: the points'.
        cores: of the CPU.
        memory: bytes that are free.
        gpus: the devices, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ConfigError: ``trainer.threads`` asks for more than a worker can have.
    """
    if gpus and any(config.trainer.name != "cpu" for config in configs):
        devices = max(config.trainer.devices for config in configs)
        if devices > len(gpus):
            raise ConfigError(
                f"trainer.devices={devices} needs as many GPUs, and there {'is' if len(gpus) == 1 else 'are'} {len(gpus)}: "
                f"{', '.join(gpus)}."
            )
        sets = [",".join(gpus[first : first + devices]) for first in range(0, len(gpus) - devices + 1, devices)]
        share = max(1, cores // (len(sets) * settings.runs_per_gpu))
        return [Seat(share, one) for _ in range(settings.runs_per_gpu) for one in sets]
    asked = max((config.trainer.devices * (config.trainer.threads or 1) for config in configs), default=1)
    if settings.workers is None:
        count = max(1, min(cores // asked, memory // WORKER_MEMORY))
        return [Seat(asked, "")] * count
    share = max(1, cores // settings.workers)
    if asked > share:
        raise ConfigError(
            f"trainer.threads={asked} with hydra.launcher.workers={settings.workers} needs {asked * settings.workers} cores, "
            f"and there are {cores}. Ask for fewer of either."
        )
    return [Seat(share, "")] * settings.workers


def cores_here() -> int:
    return len(os.sched_getaffinity(0))


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else WORKER_MEMORY


def gpus_here(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that this process may use, without importing torch."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() and device.strip() != "-1"]
    found = [re.fullmatch(r"nvidia(\d+)", path.name) for path in devices.glob("nvidia*")]
    numbered = sorted((match[1] for match in found if match), key=int)
    # On WSL and Jetson there is one GPU, under another name.
    return numbered or (["0"] if any((devices / name).exists() for name in ("dxg", "nvhost-ctrl-gpu")) else [])
