"""There is not enough memory: for the weights, the optimizer's state or the activations."""

import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

from faults.commands import QUICK, clean, environment, last_lines, result_of, run_in, start
from faults.registry import Outcome, Setting, fault

ROOM = 700 * 2**20
"""Bytes that a run may take beside its imports."""


@fault("memory")
def memory(setting: Setting) -> Iterator[Outcome]:
    """out of memory (limit of the address space; on a GPU where there is one): says what was tried and what to do"""
    import torch

    base = _imports()
    kinds = ["weights", "optimizer state", "activations", *(["GPU"] if torch.cuda.is_available() else [])]
    for number in range(setting.count):
        kind = kinds[number % len(kinds)]
        draw = random.Random(f"{setting.seed} {number}")
        folder = setting.folder / str(number)
        width = {"weights": draw.randrange(20_000, 60_000), "optimizer state": draw.randrange(9_000, 11_000)}.get(
            kind, draw.randrange(100_000, 300_000)
        )
        choices = [f"model.hidden=[{width},{width}]"] if kind != "activations" else [f"model.hidden=[{width}]"]
        if kind == "activations":
            choices += ["data.batch_size=full"]
        device = "trainer=cuda" if kind == "GPU" else "trainer=cpu"
        limit = None if kind == "GPU" else base + ROOM
        uri = f"sqlite:///{folder}/mlflow.db"
        process = start(
            folder,
            device,
            *QUICK[1:],
            *choices,
            "trainer.max_epochs=2",
            before=_limited(limit),
            MLFLOW_TRACKING_URI=uri,
        )
        _, err = process.communicate(timeout=300)
        said = last_lines(err)
        good = process.returncode == 1 and clean(err) and bool(re.search(r"not enough memory", said))
        good = good and bool(re.search(r"tried|requires|allocate", said)) and "Choose" in said
        status = result_of(run_in(folder / "outputs")).get("status")
        yield Outcome(
            kind, good and status == "failed", f"exit status {process.returncode}, {status}: {said or err[-300:]}"
        )


def _imports() -> int:
    """The address space of a process that has imported what a run imports, in bytes."""
    code = (
        "import gradlab.run, gradlab.checkpoints, gradlab.console, torchvision, matplotlib.pyplot; import resource;"
        + ("print(next(line for line in open('/proc/self/status') if line.startswith('VmPeak')))")
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1]) * 1024


def _limited(limit: int | None) -> Callable[[], None] | None:
    if limit is None:
        return None

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return set_limit
