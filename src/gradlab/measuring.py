"""How long an optimizer step takes, for one run and for populations of several sizes; a short measurement on this machine."""

import contextlib
import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gradlab import environment
from gradlab.allocator import give_back_freed_memory
from gradlab.captured import WARM_UP as CALLS
from gradlab.classifier import Classifier
from gradlab.compiled import CompiledStep, Uncompilable
from gradlab.config import Config
from gradlab.errors import is_out_of_memory
from gradlab.population import Population
from gradlab.prepare import Prepared, lightning_trainer, prepare, stepping
from gradlab.rehearsal import clock_for
from gradlab.speed import estimates
from gradlab.tracking.journal import Journal

if TYPE_CHECKING:
    from gradlab.data.datasets.base import Splits

WARM_UP, LEAST_STEPS = 2, 5
CUDA_WARM_UP, CUDA_STEPS = CALLS + 3, 10
"""On a GPU steps are timed ten by ten: to wait after each would cost as much as a small one takes."""
NO_BETTER = 1.25
"""A size that takes so many times the best one's time for a member ends the search: more members would fill the caches more."""

SHARE = 0.1
"""Of the time that the work takes, which a measurement may take in any case."""
SOON = 0.5
"""Seconds that it may take in any case."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """What was measured of one size.

    members: trained at once; 1 for a run alone.
    seconds: of a step, for each member; the lower quartile. Infinity where there is not the memory for it.
    memory: bytes that the training took at its peak, or would take; 0 where that cannot be told.
    compiling: seconds of compiling that come before steps of one compiled function; 0 for eager steps.
    """

    members: int
    seconds: float
    memory: int
    compiling: float = 0.0


def measure(
    config: Config,
    splits: "Splits",
    sizes: Sequence[int],
    seconds: float,
    memory: int | None = None,
    work: float = math.inf,
) -> list[Pace]:
    """The pace of each of ``sizes``, smallest first, until one is no better, would not fit, or is not worth its measurement.

    The members are the same run again and again: what a step costs does not depend on its numbers. A size that by the one
    before it needs more than ``memory`` bytes is not tried, and is returned with a pace of infinity and what it would need;
    so is one whose memory could not be had. On a GPU its free memory is the bound. The measurement is for ``work`` steps in all: it ends
    where another size would take longer than it may save of them, once it has taken a share of their time, or, after two sizes,
    half of ``seconds``.
    """
    began = time.perf_counter()
    device = lightning_trainer(config, []).strategy.root_device
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0]
    paces: list[Pace] = []
    took = 0.0
    for size in sorted(sizes):
        best = min((pace.seconds for pace in paces), default=float("inf"))
        spent = time.perf_counter() - began
        if len(paces) > 2 and paces[-1].seconds > NO_BETTER * best:
            break
        # Of a step another doubling saves perhaps half of what the last one did, and to measure it takes at most twice as long.
        saved = (paces[-2].seconds - paces[-1].seconds) / 2 if len(paces) > 1 else 0.0
        share = SHARE * work * best if len(paces) == 1 else min(SHARE * work * best, seconds / 2)
        if paces and saved * work <= 2 * took and spent > max(SOON, share):
            break
        needed = paces[-1].memory * size // paces[-1].members if paces else 0
        if memory is not None and needed > memory:
            paces.append(Pace(size, float("inf"), needed))
            break
        started = time.perf_counter()
        try:
            paces.append(_pace(config, splits, size))
        except Exception as error:
            if not paces or not is_out_of_memory(error):
                raise
            paces.append(Pace(size, float("inf"), max(needed, 1)))
            break
        took = time.perf_counter() - started
    return paces


def compiled_pace(config: Config, splits: "Splits", paces: Sequence[Pace], work: float) -> Pace | None:
    """The pace of a run alone whose step is one compiled function; None where that would not pay, or cannot be.

    Args:
        config, splits: of the run.
        paces: of eager steps, the first that of a run alone.
        work: steps that a process makes in all, of this run and of others like it, which share what is compiled.
    """
    best = min(pace.seconds for pace in paces)
    trainer = lightning_trainer(config, [])
    device = trainer.strategy.root_device
    with _prepared(config, splits, 1) as prepared:
        prepared.data.place(device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else environment.processor()
        own = stepping(config, prepared, trainer, name)
        known = own.memory.recall()
        # On a GPU those of ``paces`` are captured ones, where that can be.
        pace = paces[0].seconds
        plain = (
            dataclasses.replace(known, captured=pace)
            if device.type == "cuda"
            else dataclasses.replace(known, eager=pace)
        )
        _, compiled, compiling = estimates(plain, own.work)
        if known.obstacle or work * (best - compiled) <= compiling:
            return None
        if known.compiled is None or known.compiling is None:
            tried = own.rehearse().compiled()
            if isinstance(tried, str):
                known.obstacle = tried
            else:
                known.compiling, known.compiled = tried
            own.memory.keep(known)
        if known.compiled is None or known.compiling is None:
            return None
        return Pace(1, known.compiled, paces[0].memory, known.compiling)


def _pace(config: Config, splits: "Splits", size: int) -> Pace:
    device = lightning_trainer(config, []).strategy.root_device
    forget_peak(device)
    before = peak_memory(device)
    with _prepared(config, splits, size) as prepared:
        module: Any = Classifier(prepared.learners[0])
        if size > 1:
            # Compiling one of each size would take longer than most sweeps.
            speed = "safe" if config.trainer.speed == "safe" else "auto"
            module = Population(prepared.learners, [config.seed] * size, speed=speed)
        dtype = torch.float64 if config.trainer.precision == "fp64" else torch.float32
        module.to(device, dtype)
        prepared.data.place(device)
        module.configure_optimizers()
        if size == 1 and device.type == "cuda" and config.trainer.speed != "safe":
            with contextlib.suppress(Uncompilable):
                learner = prepared.learners[0]
                learner.compiled = CompiledStep(learner, "", config.batch_examples, compiles=False)
        batches = prepared.data.train_dataloader().made_from(0)
        # Without autocast's memory of what it has cast, as Lightning has it: weights change from step to step.
        precision = torch.autocast(
            device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16", cache_enabled=False
        )
        with precision:
            took = _timed_on_a_gpu(module, batches) if device.type == "cuda" else _timed(module, batches)
        # The lower quartile: what else runs on the machine makes steps longer, never shorter.
        quartile = statistics.quantiles(took, n=4, method="inclusive")[0] if len(took) > 1 else took[0]
        return Pace(size, quartile / size, max(0, peak_memory(device) - before))


def _timed(module: Any, batches: Iterator[Any]) -> list[float]:
    """Seconds of steps, those of warming up left out; of so few that nothing else would be left, of the shortest one."""
    took: list[float] = []
    clock = clock_for(torch.device("cpu"))
    for step, batch in zip(range(WARM_UP + 4 * LEAST_STEPS), batches, strict=False):
        started = clock()
        module.advance(step, batch)
        took.append(clock() - started)
        if len(took) >= WARM_UP + LEAST_STEPS and sum(took) > 0.1:
            break
    return took[WARM_UP:] if len(took) > WARM_UP + 1 else [min(took)]


def _timed_on_a_gpu(module: Any, batches: Iterator[Any]) -> list[float]:
    """The same, several steps at a time."""
    numbered = enumerate(batches)

    def seconds(steps: int) -> list[float]:
        started, made = time.perf_counter(), 0
        for step, batch in itertools.islice(numbered, steps):
            module.advance(step, batch)
            made += 1
        torch.cuda.synchronize()
        return [(time.perf_counter() - started) / made] if made else []

    warming_up = seconds(CUDA_WARM_UP)
    return [took for _ in range(LEAST_STEPS) for took in seconds(CUDA_STEPS)] or warming_up


@contextlib.contextmanager
def _prepared(config: Config, splits: "Splits", size: int) -> Iterator[Prepared]:
    """``size`` times the same run, ready to be trained, with journals that nobody reads."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as cleanup:
        journals = [Journal(Path(folder) / str(member)) for member in range(size)]
        for journal in journals:
            cleanup.callback(journal.close)
        prepared = prepare([config] * size, splits, journals)
        cleanup.callback(prepared.data.close)
        yield prepared


def forget_peak(device: torch.device) -> None:
    """Begin to look for the most bytes that are in use at once."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        give_back_freed_memory()  # or the most would be what has been in use before
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use since ``forget_peak``; 0 where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
