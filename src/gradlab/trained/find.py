"""Which run is meant: a run's folder, an MLflow run id, ``latest`` or ``best``. Needs no torch."""

import atexit
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlab.errors import ConfigError, GradlabError
from gradlab.settings import without_secret
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.store import open_client, tracking_uri


@dataclass(frozen=True)
class Found:
    """A run with a best checkpoint. ``said`` is a line that tells which one, for whoever did not name it exactly."""

    checkpoint: Path
    said: str


def find_run(text: str, output_dir: Path, uri: str | None) -> Found:
    """The run that ``text`` names.

    Args:
        text: a run's folder; an MLflow run id; ``latest``, the run in ``output_dir`` that began last; or ``best``, the
            one with the highest validation accuracy.
        output_dir: where runs make their folders.
        uri: MLflow store for a run id; None for the environment's or the default one.

    Raises:
        ConfigError: there is no such run, or it has no checkpoint.
        GradlabError: the MLflow store cannot be read.
    """
    path = Path(text).expanduser()
    if text in ("latest", "best") and not path.is_dir():
        return _chosen(text, output_dir)
    if path.is_dir():
        return _in_folder(path)
    if re.fullmatch("[0-9a-f]{32}", text):
        return _in_mlflow(text, tracking_uri(uri))
    raise ConfigError(
        f"There is no run '{text}': it is no folder, no MLflow run id (32 hexadecimal digits), and neither 'latest' nor "
        f"'best'. Runs make their folders in {output_dir}."
    )


def _in_folder(path: Path) -> Found:
    for checkpoint in (RunFolder(path).checkpoints / "best", path):  # a checkpoint itself will do, too
        if (checkpoint / "state.json").is_file():
            return Found(checkpoint.absolute(), str(path))
    raise ConfigError(
        f"{path} has no checkpoints/best: it is no run's folder, or its run ended before the first validation."
    )


def _chosen(text: str, output_dir: Path) -> Found:
    runs = [state.parents[2] for state in output_dir.expanduser().glob("**/checkpoints/best/state.json")]
    if not runs:
        raise ConfigError(
            f"There is no trained run in {output_dir}. Train one with python train.py, or name the folder that runs are "
            "in with --output-dir."
        )
    if text == "latest":
        # Folders are named by the second they were made in, and numbered within it.
        run = max(runs, key=lambda path: (path.name[:19], path.stat().st_mtime_ns))
        return Found(RunFolder(run).checkpoints / "best", f"{run}, the latest of {len(runs):,}")
    ranked = []
    for run in runs:
        result = _result(run)
        accuracy = result.get("metrics", {}).get("best/val_accuracy")
        if accuracy is not None and result.get("status") == "finished":
            ranked.append((accuracy, run))
    if not ranked:
        raise ConfigError(f"None of the {len(runs):,} runs in {output_dir} has finished, so none is the best.")
    accuracy, run = max(ranked)
    return Found(
        RunFolder(run).checkpoints / "best",
        f"{run}, the best of {len(ranked):,} finished runs with {accuracy:.2%} on validation",
    )


def _result(run: Path) -> dict[str, Any]:
    try:
        result = json.loads(RunFolder(run).result.read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def _in_mlflow(run_id: str, uri: str) -> Found:
    """The run's own folder where it is on this machine, else its checkpoint from MLflow's artifacts."""
    try:
        client = open_client(uri)
        run = client.get_run(run_id)
        folder = Path(run.data.tags.get("gradlab.folder", ""))
        if folder.is_absolute() and (RunFolder(folder).checkpoints / "best" / "state.json").is_file():
            return Found(RunFolder(folder).checkpoints / "best", f"MLflow run {run_id} in {folder}")
        into = tempfile.mkdtemp(prefix="gradlab-run-")
        atexit.register(shutil.rmtree, into, ignore_errors=True)
        checkpoint = Path(client.download_artifacts(run_id, "checkpoints/best", into))
    except Exception as error:  # whatever the store raises
        raise GradlabError(
            f"MLflow run {run_id} cannot be had from {without_secret(uri)}: {str(error).splitlines()[0]}"
        ) from error
    if not (checkpoint / "state.json").is_file():
        raise ConfigError(f"MLflow run {run_id} has no checkpoints/best among its artifacts.")
    return Found(checkpoint, f"MLflow run {run_id}, from {without_secret(uri)}")
