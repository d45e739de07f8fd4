"""There is not enough memory: for the weights, the optimizer's state or the activations."""

import functools
import re
import resource
import subprocess
import sys
from collections.abc import Callable

from faults.commands import QUICK, clean, environment, last_lines, result_of, run_in, start
from faults.registry import Outcome, Setting, fault

ROOM = 700 * 2**20
"""Bytes that a run may take beside its imports."""


@fault(full=10)
def memory(setting: Setting, number: int) -> Outcome:
    """out of memory (limit of the address space; on a GPU where there is one): says what was tried and what to do"""
    import torch

    kinds = ["weights", "optimizer state", "activations", *(["GPU"] if torch.cuda.is_available() else [])]
    kind, draw, folder = kinds[number % len(kinds)], setting.draw(number), setting.place(number)
    width = {"weights": draw.randrange(20_000, 60_000), "optimizer state": draw.randrange(9_000, 11_000)}.get(
        kind, draw.randrange(100_000, 300_000)
    )
    activations = (f"model.hidden=[{width}]", "data.batch_size=full")
    process = start(
        folder, *QUICK, *(["trainer=cuda"] if kind == "GPU" else []), "trainer.max_epochs=2",
        *(activations if kind == "activations" else [f"model.hidden=[{width},{width}]"]),
        before=None if kind == "GPU" else _limited(_imports() + ROOM), MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
    )  # fmt: skip
    _, err = process.communicate(timeout=300)
    said = last_lines(err)
    told = all(re.search(part, said) for part in ("not enough memory", "tried|requires|allocate", "Choose"))
    status = result_of(run_in(folder / "outputs")).get("status")
    survived = process.returncode == 1 and clean(err) and told and status == "failed"
    return Outcome(kind, survived, f"exit status {process.returncode}, {status}: {said or err[-300:]}")


@functools.cache
def _imports() -> int:
    """The address space of a process that has imported what a run imports, in bytes."""
    code = (
        "import gradlab.run, gradlab.checkpoints, gradlab.console, torchvision, matplotlib.pyplot; import resource;"
        + ("print(next(line for line in open('/proc/self/status') if line.startswith('VmPeak')))")
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1]) * 1024


def _limited(limit: int) -> Callable[[], None]:
    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return set_limit
