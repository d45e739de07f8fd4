"""Memory that a step on a CPU has freed, kept for the next step.

Each step allocates the tensors that the last one has freed. But the C library gives every block of more than 32 MiB back to
the system at once, and asks for it again: the system then hands it out page by page, each one cleared when it is first
written to, 8,192 interruptions for 32 MiB. A convolutional network's step can spend a quarter of its time on them
(``experiments/LOG.md``).

Only glibc has this behaviour and these settings (its manual: "Malloc Tunable Parameters"); elsewhere nothing is done.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names and numbers of glibc's ``malloc.h``."""


def keep_freed_memory() -> bool:
    """Keep, from now on, what this process frees, until it ends or ``give_back_freed_memory``; whether that can be had."""
    library = _glibc()
    if library is None:
        return False
    # No block is a mapping of its own, which would go when it is freed; and the heap does not shrink.
    return bool(library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Give to the system what is kept and not in use."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        is_there = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (ValueError, OSError):  # as musl and macOS say no
        return None
    return ctypes.CDLL(None) if is_there else None
