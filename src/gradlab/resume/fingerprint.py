"""What the last bits of a result depend on beside the configuration: written into each checkpoint, and compared."""

from typing import Any

from gradlab import environment

Fingerprint = dict[str, Any]


def fingerprint(device: str, threads: int) -> Fingerprint:
    """Versions of libraries, the device's name, its kind of arithmetic and torch's threads."""
    import torch

    return {
        **environment.versions(),
        "commit": environment.source().get("commit"),
        # The number of cores says nothing about bits, that of threads does.
        "device": device.rpartition(",")[0] if device.endswith("cores") else device,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
    }


def difference(before: Fingerprint, now: Fingerprint) -> str | None:
    """A line that says in what this process differs from that which wrote the checkpoint; None where in nothing."""
    parts = [
        f"{key} {now.get(key)} instead of {before.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if not parts:
        return None
    return f"Other than where its checkpoint was written: {', '.join(parts)}. The last bits of the result may differ for it."
