"""Many learning rates at once: what a step costs for each of K runs, by every way to train them, side by side in one run.

    .venv/bin/python scripts/bench.py --population [--data ../shared/data] [--only digits+mlp]
    .venv/bin/python scripts/bench.py --population --only command    the whole command against separate ones

* ``plain loop``: hand-written PyTorch as tutorials have it, one run after the other, with all cores' threads.
* ``plain loop ×2``: the same in as many processes as there are cores, a thread each.
* ``alone``: gradlab's own single run, in as many processes as there are cores, a thread each: a sweep without populations.
* ``alone, compiled``: the same with the step as one compiled function.
* ``K at once``: populations of K members, in as many processes as there are cores.

On a GPU there is one process; ``alone, captured`` is a single run whose step is a CUDA graph, which populations are too, and
``alone, compiled`` and ``K at once, compiled`` have both.

A figure is the time of a step divided by the runs that made it, over all processes. The ways take turns, after a warm-up turn
each; a row is the median of the turns, with lowest and highest. ``of the floor`` is the share of the machine's own
matrix-product rate that the useful arithmetic reaches: 6 operations for each multiply-add of the forward pass and image.
``memory`` is what a process took beside what it had, at its peak, for each member. The planner picks from the same figures.

``command``: ``python train.py -m`` over 32 learning rates from its start to its end, verdict included, and as many separate
``python train.py``, of which three are run in each turn. Results are added to experiments/speed/population_*.json, workload by workload.
"""

import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hydra
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from benchmarks.ways import autocast, cropped_and_flipped
from benchmarks.workloads import OWN_CONFIGS
from gradlab import environment
from gradlab.classifier import Classifier
from gradlab.compiled import CompiledStep
from gradlab.config import Config, build_config
from gradlab.data.datasets.base import Splits
from gradlab.entry import CONFIGS
from gradlab.measuring import forget_peak, peak_memory
from gradlab.population import Population
from gradlab.prepare import lightning_trainer, prepare, prepare_network
from gradlab.speed import CAPTURED, COMPILED, EAGER
from gradlab.sweeps.planning import Measured, plan
from gradlab.tracking.journal import Journal

ROOT = Path(__file__).resolve().parents[1]
NOISE = ["data=random_images", "augment=[crop,flip]", "optimizer=nesterov"]
WORKLOADS = {
    "digits+mlp": (["data=digits", "model=mlp", "data.batch_size=64"], 32, 128),
    "mnist+mlp": (["data=mnist", "model=mlp", "data.batch_size=64"], 32, 128),
    "mnist+lenet": (["data=mnist", "model=lenet", "data.batch_size=64"], 16, 32),
}
"""Overrides, the runs of the sweep, and the largest population that is measured."""
CUDA_WORKLOADS = {
    "mnist+mlp": (WORKLOADS["mnist+mlp"][0], 512, 512),
    "mnist+lenet": (WORKLOADS["mnist+lenet"][0], 512, 512),
    "cifar+resnet-9": ([*NOISE, "model=resnet", "model.depth=9", "trainer.precision=bf16"], 8, 8),
    "cifar+resnet-18": ([*NOISE, "model=resnet", "model.depth=18", "trainer.precision=bf16"], 8, 8),
}
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
HARDWARE = torch.cuda.get_device_name() if CUDA else environment.processor()
COMMAND = ["optimizer=adam", "data.batch_size=64"]
RATES = 32
EPOCHS = (5, 20, 100)
"""Lengths of a run for which it is told what the planner picks; the whole command takes the second."""
COMPILING = 10.0
"""Seconds that a compilation is taken to last, here, where it is a turn of the warm-up."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CUDA_SIZES = (8, 32, 128, 512)
CUDA_COMPILED = (32, 512)
"""Half a minute of compiling for each; the ResNets' eight members, convolution after convolution, would take many."""
Steps = Callable[[int], None]
"""Makes so many steps of every run that this process has."""


@dataclass(frozen=True)
class Way:
    """One way to train: ``members`` at once in each of ``processes`` with ``threads``; a plain loop where members is 0."""

    name: str
    members: int
    processes: int
    threads: int
    steps: str = EAGER


def ways(cores: int, largest: int) -> list[Way]:
    if CUDA:
        single = [Way("plain loop", 0, 1, cores), Way("alone", 1, 1, cores)]
        single += [Way(f"alone, {steps}", 1, 1, cores, steps) for steps in (CAPTURED, COMPILED)]
        sizes = [size for size in CUDA_SIZES if size <= largest]
        compiled = [size for size in CUDA_COMPILED if size <= largest]
        return [
            *single,
            *(Way(f"{size} at once", size, 1, cores) for size in sizes),
            *(Way(f"{size} at once, compiled", size, 1, cores, COMPILED) for size in compiled),
        ]
    single = [Way("plain loop", 0, 1, cores)]
    if cores > 1:
        single.append(Way(f"plain loop ×{cores}", 0, cores, 1))
    single += [Way("alone", 1, cores, 1), Way("alone, compiled", 1, cores, 1, COMPILED)]
    return single + [Way(f"{size} at once", size, cores, 1) for size in SIZES if 1 < size <= largest]


def compose(overrides: list[str]) -> Config:
    from benchmarks import random_images  # noqa: F401 - registers itself

    fixed = ["trainer.max_epochs=null", "trainer.max_steps=1000000000", "tracking=none", "schedule=constant"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return build_config(hydra.compose("config", [f"hydra.searchpath=[file://{OWN_CONFIGS}]", *overrides, *fixed]))


def plain_loop(config: Config, splits: Splits) -> Steps:
    """By hand: an ordinary network, an ordinary Adam, and the loss as a progress line tells it."""
    from gradlab.prepare import image_data

    model = prepare_network(config, splits, image_data([config], splits)).to(DEVICE)
    images = torch.from_numpy(splits.train.images).to(DEVICE)
    labels = torch.from_numpy(splits.train.labels).to(DEVICE)
    mean, std = images.float().mean(), images.float().std()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optimizer.lr)
    size, augments = config.batch_examples, bool(config.augment)

    def steps(count: int) -> None:
        order = torch.randperm(len(labels), device=DEVICE)
        loss_sum, correct = torch.zeros((), device=DEVICE), torch.zeros((), device=DEVICE)
        for step in range(count):
            batch = order[step * size % (len(labels) - size) :][:size]
            target = labels[batch]
            floats = (images[batch].float() - mean) / std
            with autocast(config):
                logits = model(cropped_and_flipped(floats) if augments else floats)
                loss = F.cross_entropy(logits.float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.argmax(1) == target).sum()
        float(loss_sum), float(correct)

    return steps


def ours(config: Config, splits: Splits, members: int, how: str, cleanup: contextlib.ExitStack) -> Steps:
    """``members`` runs as gradlab steps them, data path included; one alone perhaps captured, or by one compiled function."""
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
    journals = [cleanup.enter_context(contextlib.closing(Journal(folder / str(k)))) for k in range(members)]
    prepared = prepare([config] * members, splits, journals)
    context = lightning_trainer(config, []).strategy.precision_plugin.train_step_context
    torch.backends.cudnn.benchmark = True
    prepared.data.place(DEVICE)
    module: Any = Classifier(prepared.learners[0])
    if members > 1:
        speed = "max" if how == COMPILED else "auto"
        module = Population(prepared.learners, [config.seed] * members, speed=speed)
    module.to(DEVICE).configure_optimizers()
    if how != EAGER and members == 1:
        learner = prepared.learners[0]
        learner.compiled = CompiledStep(learner, "benchmark", config.batch_examples, compiles=how == COMPILED)
    batches = prepared.data.train_dataloader().made_from(0)

    def steps(count: int) -> None:
        with context():
            measured = [module.advance(step, next(batches)) for step in range(count)]
        torch.stack([torch.stack(numbers).double() for numbers in zip(*measured, strict=True)]).tolist()

    return steps


def serve(connection: Connection, overrides: list[str]) -> None:
    """A process: makes the steps that it is asked for, and says how long they took."""
    config = compose(overrides)
    splits = config.data.load()
    made: dict[tuple[int, str], Steps] = {}
    with contextlib.ExitStack() as cleanup:
        while (asked := connection.recv()) is not None:
            members, how, threads, count = asked
            memory, way = 0, (members, how)
            if way not in made:
                if CUDA:
                    torch.cuda.empty_cache()
                forget_peak(DEVICE)
                memory = peak_memory(DEVICE)
                made[way] = plain_loop(config, splits) if not members else ours(config, splits, *way, cleanup)
            torch.set_num_threads(threads)
            began = time.perf_counter()
            made[way](count)  # ends by fetching what was measured, and so waits for a GPU
            seconds = time.perf_counter() - began
            connection.send((seconds, peak_memory(DEVICE) - memory if memory else 0))


@contextlib.contextmanager
def processes(count: int, overrides: list[str]) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    started = [context.Process(target=serve, args=(theirs, overrides), daemon=True) for _, theirs in pipes]
    for process in started:
        process.start()
    try:
        yield [ours for ours, _ in pipes]
    finally:
        for connection, _ in pipes:
            connection.send(None)
        for process in started:
            process.join()


def turn(servers: list[Connection], way: Way, steps: int) -> tuple[float, int]:
    """Seconds of a step for each run, over all processes that work at the same time; the first time also bytes for each."""
    busy = servers[: way.processes]
    for server in busy:
        server.send((way.members, way.steps, way.threads, steps))
    told = [server.recv() for server in busy]
    runs = max(1, way.members)
    return max(seconds for seconds, _ in told) / steps / runs / way.processes, max(memory for _, memory in told) // runs


def matrix_rate(threads: int, precision: str) -> float:
    """Floating-point operations a second of a product of square matrices, of floats; on a GPU of TF32, or bfloat16 in ``precision``."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    side, dtype = 8192 if CUDA else 768, torch.bfloat16 if CUDA and precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    took = []
    for _ in range(12):
        began = time.perf_counter()
        left @ right
        if CUDA:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return float(2 * side**3 / statistics.median(took[2:]))


def measure(name: str, overrides: list[str], runs: int, largest: int, turns: int) -> dict[str, Any]:
    from gradlab.models.base import build_network
    from gradlab.models.trace import trace

    config = compose(overrides)
    work = trace(build_network(config.model, config.spec, 0), config.spec.image_shape)[0].multiply_adds
    cores = len(os.sched_getaffinity(0))
    chosen = ways(cores, largest)
    seconds: dict[str, list[float]] = {way.name: [] for way in chosen}
    memory: dict[str, int] = {}
    warming_up = 8 if CUDA else 3
    at_work = 1 if CUDA else cores
    with processes(at_work, overrides) as servers:
        counts = {}
        for way in chosen:  # warm-up, and how many steps make about half a second
            memory[way.name] = turn(servers, way, warming_up)[1]
            pace = turn(servers, way, warming_up)[0] * max(1, way.members) * way.processes
            counts[way.name] = max(3, int(0.5 / pace))
        for _ in range(turns):
            for way in chosen:
                seconds[way.name].append(turn(servers, way, counts[way.name])[0])
    medians = {way.name: statistics.median(seconds[way.name]) for way in chosen}
    known = [
        Measured(way.members, at_work * medians[way.name], 0, COMPILING if way.steps == COMPILED else 0)
        for way in chosen
        if way.members and not (CUDA and way.name == "alone")
    ]
    picked = {
        f"{epochs} epochs": plan(known, runs, config.horizon.steps_per_epoch * epochs, 0, workers=at_work).way
        for epochs in EPOCHS
    }
    return {
        "workload": name,
        "runs": runs,
        "turns": turns,
        "floor_microseconds": 1e6 * 6 * work * config.batch_examples / matrix_rate(cores, config.trainer.precision),
        "microseconds": {
            way: {"median": 1e6 * medians[way], "min": 1e6 * min(found), "max": 1e6 * max(found)}
            for way, found in seconds.items()
        },
        "bytes_of_a_member": memory,
        "picked": picked,
    }


def measure_command(turns: int) -> dict[str, Any]:
    """Seconds of the whole command, and of one of the separate ones."""
    fixed = [*COMMAND, f"trainer.max_epochs={EPOCHS[1]}"]
    sweep = [*fixed, "-m", f"optimizer.lr=logspace(1e-4,1,{RATES})"]
    took: dict[str, list[float]] = {"sweep": [], "single": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, turns):  # the first, which makes the store, is the warm-up
            for kind, arguments in (("sweep", sweep), *[("single", fixed)] * 3):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, str(ROOT / "train.py"), *arguments],
                    cwd=folder,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                if number >= 0:
                    took[kind].append(time.perf_counter() - began)
    return {
        "workload": "command",
        "runs": RATES,
        "turns": turns,
        "seconds": {
            kind: {"median": statistics.median(found), "min": min(found), "max": max(found)}
            for kind, found in took.items()
        },
        "times_as_fast": RATES * statistics.median(took["single"]) / statistics.median(took["sweep"]),
    }


def main(data: Path, turns: int, only: str | None, into: Path, device: str) -> None:
    file = into / f"population_{device}.json"
    if only == "command" or (only is None and not CUDA):
        add(file, measure_command(turns))
    for name, (overrides, runs, largest) in (CUDA_WORKLOADS if CUDA else WORKLOADS).items():
        if only in (None, name):
            root = [f"data.root={data}"] if "data=mnist" in overrides else []
            result = measure(name, overrides + root, runs, largest, turns)
            show(result)
            add(file, result)
    print(f"written to {file}")


def add(file: Path, result: dict[str, Any]) -> None:
    """Put a workload's result into the record, in place of an earlier one."""
    results = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        results = [one for one in json.loads(file.read_text())["results"] if one["workload"] != result["workload"]]
    here = {"hardware": HARDWARE, "versions": environment.versions()}
    results = sorted([*results, {**result, **here}], key=lambda one: str(one["workload"]))
    file.write_text(json.dumps({"results": results}, indent=1) + "\n")
    if result["workload"] == "command":
        sweep, single = (result["seconds"][kind]["median"] for kind in ("sweep", "single"))
        print(
            f"{RATES} runs: {sweep:.1f} s as one command, {single:.1f} s each as commands of their own: {result['times_as_fast']:.1f} times as fast"
        )


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['workload']}: µs of a step for each run, on {HARDWARE}")
    for column in ("way", "median", "lowest–highest", "plain loop is … times as long", "of the floor", "memory"):
        table.add_column(column, justify="left" if column == "way" else "right")
    plain = result["microseconds"]["plain loop"]["median"]
    for way, found in result["microseconds"].items():
        table.add_row(
            way,
            f"{found['median']:,.0f}",
            f"{found['min']:,.0f}–{found['max']:,.0f}",
            f"{plain / found['median']:.2f}",
            f"{result['floor_microseconds'] / found['median']:.0%}",
            f"{result['bytes_of_a_member'][way] / 2**20:,.1f} MiB",
        )
    told = ", ".join(f"{way.removesuffix(' (measured)')} for {length}" for length, way in result["picked"].items())
    table.caption = f"for {result['runs']} runs the planner picks: {told}"
    Console(width=120).print(table)
