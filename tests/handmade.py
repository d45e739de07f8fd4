"""Run folders and sweeps written by hand: the same files as a run's, with numbers that a reader can check."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gradlab.analysis.records import flatten
from gradlab.tracking.journal import Journal


def write_run(
    folder: Path,
    *,
    optimizer: str = "adam",
    lr: float = 0.01,
    seed: int = 0,
    val: float | None = 0.9,
    test: float | None = 0.88,
    status: str = "finished",
    name: str | None = None,
    seconds: float = 2.0,
    more: dict[str, Any] | None = None,
) -> Path:
    """A run's folder: config.yaml, journal.jsonl and result.json (none of a run that is ``running``)."""
    folder.mkdir(parents=True)
    extra: dict[str, dict[str, Any]] = {
        "momentum": {"momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0},
        "adam": {"betas": [0.9, 0.999]},
    }
    own = extra.get(optimizer, {})
    config: dict[str, Any] = {
        "data": {"name": "digits", "batch_size": 32},
        "model": {"name": "mlp", "hidden": [64]},
        "optimizer": {"name": optimizer, "lr": lr, **own},
        "trainer": {"name": "auto", "max_epochs": 2},
        "tracking": {"name": "none"},
        "seed": seed,
        "name": name,
        "output_dir": str(folder.parent),
        "plots": False,
    }
    for key, value in (more or {}).items():
        axis, _, field = key.partition(".")
        config[axis] = {**config.get(axis, {}), field: value}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    journal = Journal(folder / "journal.jsonl")
    params = {key: "null" if value is None else value for key, value in flatten(config).items()}
    tags = {"gradlab.folder": str(folder.absolute()), "gradlab.status": "running"}
    journal.write("run", id=folder.name, name=name or folder.name, experiment="gradlab", params=params, tags=tags)
    for step in range(1, 6 if status == "pruned" else 11):
        journal.metrics(step, {"train/loss": 2.3 / step * (1 + lr), "train/accuracy": 0.5, "lr": lr})
    diverged = {"step": 11, "lr": lr} if status == "diverged" else None
    if diverged:
        journal.metrics(11, {"train/loss": float("nan"), "lr": lr})
    metrics: dict[str, float] = {}
    if status in ("finished", "diverged", "pruned") and val is not None:
        metrics = {"best/val_accuracy": val, "best/step": 10}
    if status == "finished" and test is not None:
        metrics |= {"test/accuracy": test, "final/train_loss": 0.23}
    if metrics:
        journal.metrics(10, metrics)
    if status != "running":
        journal.write("tags", tags={"gradlab.status": status})
        journal.write("end", status={"failed": "FAILED", "killed": "KILLED"}.get(status, "FINISHED"))
        result: dict[str, Any] = {"status": status, "name": name or folder.name, "seed": seed, "diverged": diverged}
        result |= {"seconds": {"training_and_test": seconds}, "versions": {"python": "3.11", "torch": "2.15.0"}}
        if status == "pruned":
            result |= {"steps": 5, "total_steps": 10}
            result["reason"] = (
                "90.00% validation accuracy at step 5: number 3 of the 3 settings there, of which 1 went on"
            )
        if status in ("finished", "diverged", "pruned"):
            result["metrics"] = metrics
        else:
            result["reason"] = "RuntimeError: no memory"
        (folder / "result.json").write_text(json.dumps(result))
    journal.close()
    return folder


def write_sweep(
    folder: Path, points: Sequence[dict[str, Any]], *, name: str = "rates", status: str = "finished"
) -> Path:
    """A sweep's folder. A point is what ``write_run`` takes; one that is ``waiting`` has no folder."""
    entries = []
    for index, point in enumerate(points):
        optimizer, lr, seed = point.get("optimizer", "adam"), point.get("lr", 0.01), point.get("seed", 0)
        run = folder / f"run_{index:03}"
        ended = point.get("status", "finished")
        if ended != "waiting":
            write_run(run, **point)
        overrides = [f"optimizer={optimizer}", f"optimizer.lr={lr}", f"seed={seed}"]
        overrides += [f"{key}={value}" for key, value in point.get("more", {}).items()]
        entries.append(
            {
                "id": f"{index:08x}",
                "name": point.get("name") or f"{optimizer} lr={lr:g} seed={seed}",
                "overrides": overrides,
                "status": ended,
                "folder": None if ended == "waiting" else run.name,
                "tries": 0 if ended == "waiting" else 1,
                "reason": None,
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "version": 1,
        "id": "5eed",
        "name": name,
        "command": ["train.py", "-m", "optimizer=sgd,adam", "optimizer.lr=logspace(1e-3,1e-1,3)", "seed=range(3)"],
        "created": "2026-11-24T00:00:00",
        "status": status,
        "swept": ["optimizer.name", "optimizer.lr"],
        "points": entries,
        "parent_run_id": None,
    }
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder
