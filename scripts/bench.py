"""How long an optimizer step takes: gradlab beside hand-written PyTorch loops over the same tensors, in one run.

    .venv/bin/python scripts/bench.py                        digits+mlp and mnist+lenet, about two minutes on two cores
    .venv/bin/python scripts/bench.py --data ../shared/data  where MNIST is (the folder that holds MNIST/raw)

Every way trains the same network on the same batches with Adam, and counts loss and accuracy as a progress line would:

* ``gradlab``: ``Trainer.fit`` from its first step to its last, journal included; validation is left out.
* ``tuned loop``: a loop by hand with all that gradlab uses too (fused Adam, channels-last convolutions).
* ``plain loop``: a loop as tutorials write it (Adam as it comes, the default memory format).

The ways take turns, after one warm-up turn each; a row is the median of the turns, with the lowest and highest. Read the
ratios, not the microseconds: machines are shared. Results go to experiments/speed/ as JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from gradlab import environment
from gradlab.classifier import Classifier
from gradlab.config import Config, build_config
from gradlab.data.datasets.base import Splits
from gradlab.entry import CONFIGS
from gradlab.initializers import initialize
from gradlab.prepare import lightning_trainer, prepare
from gradlab.tracking.journal import Journal

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = {
    "digits+mlp": (["data=digits", "model=mlp"], 1200),
    "mnist+lenet": (["data=mnist", "model=lenet"], 400),
}


def compose(overrides: list[str]) -> Config:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return build_config(hydra.compose("config", overrides))


def gradlab_seconds(config: Config, splits: Splits) -> float:
    """From the first optimizer step to the last, through Lightning's Trainer."""
    import lightning.pytorch as pl

    class Clock(pl.Callback):
        started = ended = 0.0

        def on_train_start(self, *_: Any) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        prepared = prepare([config], splits, [journal])
        (learner,) = prepared.learners
        lightning_trainer(config, [clock]).fit(Classifier(learner), datamodule=prepared.data)
        journal.close()
    assert learner.ledger.steps_done == config.horizon.total_steps
    return clock.ended - clock.started


def loop_seconds(config: Config, splits: Splits, *, tuned: bool, device: torch.device) -> float:
    """The same training by hand."""
    model = config.model.build(config.spec)
    initialize(model, config.init, config.seed)
    model.to(device)
    if tuned:
        model.to(memory_format=torch.channels_last)
    images, labels = torch.from_numpy(splits.train.images).to(device), torch.from_numpy(splits.train.labels).to(device)
    mean, std = images.float().mean(), images.float().std()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optimizer.lr, fused=True if tuned else None)
    steps, size = config.horizon.total_steps, config.batch_examples
    order = torch.cat([torch.randperm(len(labels)) for _ in range(steps * size // len(labels) + 1)]).to(device)
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    _synchronize(device)
    started = time.perf_counter()
    for step in range(steps):
        batch = order[step * size : (step + 1) * size]
        target = labels[batch]
        logits = model((images[batch].float() - mean) / std)
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        correct += (logits.argmax(1) == target).sum()
    float(loss_sum), float(correct)
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(name: str, overrides: list[str], steps: int, turns: int, device: torch.device) -> dict[str, Any]:
    config = compose(
        [
            *overrides,
            "trainer.max_epochs=null",
            f"trainer.max_steps={steps}",
            "trainer.validate_every=100%",
            "schedule=constant",
            "tracking=none",
        ]
    )
    splits = config.data.load()
    ways: dict[str, Callable[[], float]] = {
        "gradlab": lambda: gradlab_seconds(config, splits),
        "tuned loop": lambda: loop_seconds(config, splits, tuned=True, device=device),
        "plain loop": lambda: loop_seconds(config, splits, tuned=False, device=device),
    }
    microseconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, run in ways.items():
            seconds = run()
            if turn > 0:
                microseconds[way].append(1e6 * seconds / steps)
    medians = {way: statistics.median(values) for way, values in microseconds.items()}
    return {
        "workload": name,
        "steps": steps,
        "turns": turns,
        "threads": torch.get_num_threads(),
        "microseconds_per_step": {
            way: {"median": medians[way], "min": min(values), "max": max(values)}
            for way, values in microseconds.items()
        },
        "ratio_to_tuned_loop": medians["gradlab"] / medians["tuned loop"],
        "ratio_to_plain_loop": medians["gradlab"] / medians["plain loop"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time optimizer steps beside hand-written loops.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds MNIST/raw")
    parser.add_argument("--turns", type=int, default=5, help="measured turns of each way (default: %(default)s)")
    parser.add_argument("--only", help=f"one workload of {', '.join(WORKLOADS)} (with --population also mnist+mlp)")
    parser.add_argument("--population", action="store_true", help="many runs at once instead: see bench_population.py")
    arguments = parser.parse_args()
    if arguments.population:
        import bench_population

        bench_population.main(arguments.data, arguments.turns, arguments.only)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else environment.processor()

    results = []
    for name, (overrides, steps) in WORKLOADS.items():
        if arguments.only in (None, name):
            root = [f"data.root={arguments.data}"] if "data=mnist" in overrides else []
            results.append(measure(name, overrides + root, steps, arguments.turns, device))

    table = Table(title=f"µs for each optimizer step, median of {arguments.turns} (lowest–highest), on {hardware}")
    for column in ("workload", "threads", "gradlab", "tuned loop", "plain loop", "gradlab / tuned", "gradlab / plain"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for result in results:
        cells = [
            f"{times['median']:,.0f} ({times['min']:,.0f}–{times['max']:,.0f})"
            for times in result["microseconds_per_step"].values()
        ]
        ratios = [f"{result['ratio_to_tuned_loop']:.2f}", f"{result['ratio_to_plain_loop']:.2f}"]
        table.add_row(result["workload"], str(result["threads"]), *cells, *ratios)
    Console(width=140).print(table)
    file = ROOT / "experiments" / "speed" / f"step_{device.type}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"hardware": hardware, "versions": environment.versions(), "results": results}
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
