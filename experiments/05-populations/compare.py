"""Hold members of populations against the same runs alone: one row for each optimizer, network and precision.

    python experiments/05-populations/compare.py --models mlp cnn --precisions fp64 --data ../shared/data

Three members with learning rates and seeds of their own, 200 steps, with all that surrounds a step: augmentation, dropout where
the network has it, a cosine schedule with a warm-up, a bound of the gradients' norm, an average of the weights, and a short last
batch in every epoch. A row has the largest differences over the members: of a tensor relative to its largest number, of a loss
relative to itself. The bias of attention's keys is left out: softmax takes no notice of it, so its gradient is nothing but
rounding, which optimizers that divide by it make into steps. Rows are added to ``equality.csv``, on a GPU to
``equality_cuda.csv``, as they come; pairs that it has are left out.
"""

import argparse
import contextlib
import csv
import io
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch

from gradlab.checkpoints import load_checkpoint
from gradlab.config import build_config
from gradlab.entry import CONFIGS
from gradlab.optimizers import OPTIMIZERS
from gradlab.run import Outcome, run_together
from gradlab.tracking.journal import metric_rows

HERE = Path(__file__).parent
MODELS = {
    "mlp": ["model=mlp", "model.hidden=[32,32]"],
    "cnn": ["model=cnn", "model.channels=[4,8]", "model.dropout=0.2"],
    "vit": ["model=vit", "model.width=16", "model.heads=2", "model.depth=1", "model.patch=4", "model.dropout=0.1"],
    "lenet": ["model=lenet", "data=mnist", "data.batch_size=16", "trainer.validate_every=100 steps"],
    "resnet-9": ["model=resnet", "model.depth=9"],
}
SHARED = [
    "trainer.threads=1", "trainer.max_epochs=null", "trainer.max_steps=200", "trainer.log_every=1 steps",
    "trainer.clip_norm=1", "augment=[translate]", "tracking=none", "plots=false",
]  # fmt: skip
RATES = {"lenet": (0.0001, 0.00017, 0.00029)}
"""Lower ones for batches of 16, with which RMSprop, NAdam and AdamW are not stable at the others."""
SEEDS = (0, 1, 0)


def train(overrides: Sequence[Sequence[str]], together: bool) -> list[Outcome]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        configs = [build_config(hydra.compose("config", [*own])) for own in overrides]
    with contextlib.redirect_stdout(io.StringIO()):
        if together:
            return run_together(configs, ["compare.py"])
        return [run_together([config], ["compare.py"])[0] for config in configs]


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    """Of the network in training and its average, statistics of BatchNorm too; what its loss depends on."""
    tensors, _ = load_checkpoint(outcome.folder / "checkpoints" / "last")
    found = {name: tensor.double() for name, tensor in tensors.items() if name.startswith(("model.", "averaging."))}
    for name, tensor in found.items():
        if name.endswith("query_key_value.bias"):
            queries, _, values = tensor.chunk(3)
            found[name] = torch.cat([queries, values])
    return found


def losses(outcome: Outcome) -> list[float]:
    rows = metric_rows(outcome.folder / "journal.jsonl")
    return [row[name] for _, row in rows for name in ("train/loss", "val/loss") if name in row]


def compare(device: str, optimizer: str, model: str, precision: str, data: Path, folder: Path) -> dict[str, Any]:
    free = optimizer.startswith("schedule_free")  # it has a schedule and an average of its own
    around = (
        ["schedule=constant"]
        if free
        else ["schedule=cosine", "schedule.warmup=5%", "averaging=ema", "averaging.decay=0.9"]
    )
    shared = [
        f"trainer={device}",
        *SHARED,
        *MODELS[model],
        f"optimizer={optimizer}",
        f"trainer.precision={precision}",
        *around,
    ]
    shared += [f"output_dir={folder}"] + ([f"data.root={data}"] if "data=mnist" in shared else [])
    rates = RATES.get(model, (0.001, 0.0017, 0.0029))
    members = [[*shared, f"optimizer.lr={rate}", f"seed={seed}"] for rate, seed in zip(rates, SEEDS, strict=True)]
    began = time.perf_counter()
    pairs = list(zip(train(members, True), train(members, False), strict=True))
    tensors = curves = 0.0
    same = 0
    for member, alone in pairs:
        ours, theirs = weights(member), weights(alone)
        gaps = [
            float((ours[name] - own).abs().max() / own.abs().max().clamp(min=1e-30)) for name, own in theirs.items()
        ]
        tensors = max(tensors, *gaps)
        same += max(gaps) == 0
        told = list(zip(losses(member), losses(alone), strict=True))
        curves = max(curves, *(abs(a - b) / abs(b) for a, b in told if math.isfinite(b)))
    return {
        "model": model, "precision": precision, "optimizer": optimizer, "tensors": f"{tensors:.2g}", "losses": f"{curves:.2g}",
        "in the same bits": f"{same} of {len(pairs)}", "losses compared": len(told), "statuses": " ".join(sorted({m.status for m, _ in pairs})),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def main(
    device: str,
    models: Sequence[str],
    precisions: Sequence[str],
    optimizers: Sequence[str],
    data: Path,
    seconds: float,
    file: Path,
) -> None:
    began = time.monotonic()
    rows = list(csv.DictReader(file.open())) if file.exists() else []
    known = {(row["model"], row["precision"], row["optimizer"]) for row in rows}
    for model in models:
        for precision in precisions:
            for optimizer in optimizers:
                if (model, precision, optimizer) in known or time.monotonic() - began > seconds:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    row = compare(device, optimizer, model, precision, data, Path(folder))
                rows.append({name: str(value) for name, value in row.items()})
                with file.open("w", newline="") as table:
                    writer = csv.DictWriter(table, list(row))
                    writer.writeheader()
                    writer.writerows(rows)
                print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--precisions", nargs="+", default=["fp64", "fp32"], choices=["fp64", "fp32"])
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--into", type=Path, help="another file for the rows")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST is")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no other pair after so many")
    given = parser.parse_args()
    into = given.into or HERE / ("equality.csv" if given.device == "cpu" else "equality_cuda.csv")
    main(given.device, given.models, given.precisions, given.optimizers, given.data, given.seconds, into)
