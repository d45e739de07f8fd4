"""A run as the verdict sees it, read from its folder alone: configuration, numbers, how it ended. Needs no MLflow.

``result.json`` is read first; where there is none (a run killed outright, or one that still trains) the journal says what
is known.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import records

Value = str | int | float | bool | None
"""A value of a flattened configuration; a list is written as JSON."""

LISTED = "augment"
"""The axis of which a list is chosen, as in ``augment=[crop,flip]``."""

STOPPED = ("pruned", "stopped")
"""Statuses of runs that a search gave up because others did better."""
ENDED = ("finished", "diverged", *STOPPED)
"""Statuses of runs that say something about their setting."""

NO_CHOICE = ("seed", "name", "output_dir", "plots", "tracking", "imports", "find_lr")
NO_CHOICE_OF = {
    "data.root",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.threads",
    "trainer.deterministic",
}
"""Keys that do not make a setting another: where a run is recorded, and what changes at most the last bits of it."""


@dataclass(frozen=True)
class Run:
    """One run.

    name: the run's own, or its point's in a sweep.
    status: ``finished``, ``diverged``, ``pruned``, ``failed``, ``killed``, ``running`` or ``waiting``.
    reason: why it failed or was given up, where that is known.
    seed: its seed; or None where its configuration does not say.
    config: the flattened configuration, without what does not make a setting.
    metrics: the final ones, such as ``best/val_accuracy``; finite and not.
    seconds: of training and test; NaN where unknown.
    folder: the run's folder, where there is one.
    sweep: the folder of the sweep it belongs to, where it does.
    mlflow_run_id: in MLflow, where it is there.
    mlflow_address: of the run's page, where the store is a server.
    diverged_at: the step at which the loss stopped being finite; or None.
    about: device, versions, source, command and data fingerprint, where recorded.
    stopped_at: the step at which its sweep gave it up as hopeless; or None.
    """

    name: str
    status: str
    reason: str | None
    seed: int | None
    config: Mapping[str, Value]
    metrics: Mapping[str, float]
    seconds: float
    folder: Path | None
    sweep: Path | None
    mlflow_run_id: str | None
    mlflow_address: str | None
    diverged_at: int | None
    about: Mapping[str, Any] = field(repr=False)
    stopped_at: int | None = None

    def metric(self, name: str) -> float:
        """The final value of a metric; NaN where the run has none, or was not finished."""
        return self.metrics.get(name, math.nan) if self.status == "finished" else math.nan


def read_run(path: Path, sweep: Path | None = None) -> Run:
    """The run in the folder ``path``, however it ended. A damaged file is taken for one that is not there."""
    folder = RunFolder(path)
    result = _json(folder.result)
    opening, tags = _from_journal(folder.journal) if not result or "metrics" not in result else ({}, {})
    config = _yaml(folder.config) or _nested(opening.get("params", {}))
    shipped = _json(folder.shipped)
    flat = flatten(config)
    seed = flat.get("seed", result.get("seed"))
    diverged = result.get("diverged") or {}
    step = diverged.get("step", tags.get("gradlab.diverged_at_step"))
    seconds = result.get("seconds") or {}
    status = str(result.get("status") or tags.get("gradlab.status") or "running")
    stopped = result.get("steps", tags.get("gradlab.pruned_at_step")) if status in STOPPED else None
    return Run(
        name=str(result.get("name") or opening.get("name") or path.name),
        status=status,
        reason=result.get("reason") or tags.get("gradlab.reason"),
        seed=seed if isinstance(seed, int) else None,
        config=choices(flat),
        metrics={name: _number(value) for name, value in (result.get("metrics") or {}).items()},
        seconds=_number(seconds.get("training_and_test")),
        folder=folder.path,
        sweep=sweep,
        mlflow_run_id=shipped.get("run_id") or result.get("mlflow_run_id"),
        mlflow_address=run_address(shipped.get("tracking_uri"), shipped.get("experiment_id"), shipped.get("run_id")),
        diverged_at=int(step) if step is not None else None,
        about={key: result[key] for key in ("device", "versions", "source", "data_sha256", "threads") if key in result},
        stopped_at=int(stopped) if stopped is not None else None,
    )


def flatten(node: Any, path: str = "") -> dict[str, Value]:
    """``{"optimizer": {"lr": 0.1}}`` as ``{"optimizer.lr": 0.1}``; lists stay whole, written as JSON."""
    if not isinstance(node, dict):
        return {path: json.dumps(node) if isinstance(node, list) else node}
    flat: dict[str, Value] = {}
    for key, child in node.items():
        flat |= flatten(child, f"{path}.{key}" if path else str(key))
    return flat


def choices(flat: Mapping[str, Value]) -> dict[str, Value]:
    """The part of a flattened configuration that makes a setting: all but the seed and where the run is recorded.

    The axis of which a list is chosen has no name of its own: it gets one from its parts, in their order.
    """
    parts = dict.fromkeys(key.split(".")[1] for key in flat if key.startswith(f"{LISTED}."))
    return {LISTED: "+".join(parts) or "none"} | {
        key: value for key, value in flat.items() if key.split(".")[0] not in NO_CHOICE and key not in NO_CHOICE_OF
    }


def value_of(text: Any) -> Value:
    """A value from its text, as in an override or in MLflow: numbers, true, false and null are themselves."""
    if not isinstance(text, str):
        return text if isinstance(text, int | float | None) else json.dumps(text)
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}.get(text, text)


def run_address(uri: str | None, experiment: str | None, run_id: str | None) -> str | None:
    """The address of a run's page, for a store that is a server."""
    if not uri or not experiment or not run_id or not uri.startswith(("http://", "https://")) or "***" in uri:
        return None
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def _from_journal(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first record and all tags of a journal."""
    opening: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        for record, _ in records(path):
            if record["kind"] == "run":
                opening = record
            if record["kind"] in ("run", "tags"):
                tags |= record.get("tags", {})
    return opening, tags


def _nested(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value_of(value) for key, value in params.items()}


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    return {}


# The C parser reads a thousand configurations in two seconds, the one in Python in twenty.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _yaml(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, yaml.YAMLError):
        found = yaml.load(path.read_text(), _Loader)
        if isinstance(found, dict):
            return dict(_floats(found))
    return {}


def _floats(node: Any) -> Any:
    """YAML 1.1 takes ``1e-05`` for text; OmegaConf, which wrote it, means the number."""
    if isinstance(node, dict):
        return {key: _floats(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_floats(child) for child in node]
    if isinstance(node, str) and node[:1] in "+-.0123456789":
        with contextlib.suppress(ValueError):
            return float(node)
    return node


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
