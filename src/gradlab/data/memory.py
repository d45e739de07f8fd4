"""How much memory a process may still take."""

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that could be taken now without swapping: what the machine has left, or its container where that is less."""
    try:
        left = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                left = 1024 * int(line.split()[1])
    except (OSError, ValueError):
        left = 1 << 33
    return max(0, min([left, *_container_memory()]))


def _container_memory() -> list[int]:
    """What a limit on this container leaves, of either generation of control groups; nothing where there is no limit."""
    found = []
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = int((_GROUPS / limit).read_text()), int((_GROUPS / usage).read_text())
            statistics = (_GROUPS / limit).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such group, or "max"
            continue
        freed = sum(int(line.split()[1]) for line in statistics if line.startswith(f"{cached} "))
        found.append(most - used + freed)
    return found
