"""Which process writes a journal, and whether it is still there. Linux says so in ``/proc``; elsewhere nothing is known.

A process id alone says little: it is used again, it means another process in another container, and nothing on another
machine. So a journal records all of what makes a process one of its kind.
"""

import os
import socket
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

ALL_OF_THE_MACHINE = "pid:[4026531836]"
"""The process namespace of a machine itself; a container has one of its own (linux/include/linux/proc_ns.h)."""


class State(Enum):
    """What is known of a process that was recorded earlier."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"
    """It ran on another machine, in another container or for another user, or was not recorded."""


def identity() -> dict[str, Any]:
    """This process, told from any other: machine, start of the machine, container, user, process id and its start."""
    return {**_surroundings(), "pid": os.getpid(), "started": _started(os.getpid())}


def state_of(recorded: Mapping[str, Any] | None) -> State:
    """Whether a process that ``identity`` described is still there. ``UNKNOWN`` wherever there is doubt."""
    if not recorded or not all(recorded.get(key) for key in ("host", "boot", "namespace", "pid", "started")):
        return State.UNKNOWN
    here = _surroundings()
    if here["user"] not in (0, recorded.get("user")):
        return State.UNKNOWN  # a system may hide the processes of other users
    if recorded["boot"] == here["boot"]:
        if recorded["namespace"] != here["namespace"]:
            return State.UNKNOWN
        return State.ALIVE if _started(int(recorded["pid"])) == recorded["started"] else State.GONE
    # The machine was started anew, if it is the same one: a container's name and id may be those of many.
    machine = all(recorded.get(key) == here[key] and here[key] for key in ("host", "machine"))
    outside = {recorded["namespace"], here["namespace"]} == {ALL_OF_THE_MACHINE}
    return State.GONE if machine and outside else State.UNKNOWN


def _surroundings() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _line("/etc/machine-id"),
        "boot": _line("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "user": os.getuid(),
    }


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None where there is none, or it has ended (a zombie)."""
    try:
        # The name, in brackets, may hold anything; the state is the first field after it, the start the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return str(Path(path).readlink())
    except OSError:
        return None
