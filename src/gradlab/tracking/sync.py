"""``gradlab sync``: replays journals that did not reach their store while their runs trained."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from gradlab.errors import ConfigError
from gradlab.settings import without_secret
from gradlab.tracking.ending import alone_with
from gradlab.tracking.folder import RunFolder, SweepFolder
from gradlab.tracking.replay import Replay
from gradlab.tracking.store import open_client, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sync_runs(paths: list[Path], uri: str | None) -> int:
    """Ship every run named, and every run of a sweep named; returns 1 if a store failed. Doing it twice changes nothing."""
    folders = [folder for path in paths for folder in _meant(path)]
    for folder in folders:
        if not folder.journal.is_file():
            raise ConfigError(f"{folder.path} is not a run's folder: it has no {folder.journal.name}.")
    failed = False
    clients = functools.cache(open_client)
    parents: dict[str, dict[str, str]] = {}
    for folder in folders:
        store = tracking_uri(uri or recorded_uri(folder))
        # A journal that is being written has a shipper of its own; both at once would make two MLflow runs.
        with alone_with(folder) as alone:
            if alone:
                failed |= not _sync(folder, store, functools.partial(clients, store), parents.setdefault(store, {}))
            else:
                print(f"{folder.path.name}: still running, and shipped as it runs")
    return int(failed)


def _meant(path: Path) -> list[RunFolder]:
    """The run in ``path``; with a sweep all its runs, and before a run of a sweep the sweep, below which it is nested."""
    sweep = SweepFolder(path)
    if sweep.record.is_file():
        return [sweep, *sweep.run_folders()]
    above = SweepFolder(sweep.path.parent.parent)
    return [above, RunFolder(path)] if above.record.is_file() else [RunFolder(path)]


def _sync(folder: RunFolder, uri: str, opened: "Callable[[], MlflowClient]", parents: dict[str, str]) -> bool:
    replay = Replay(folder, uri, opened, parents)
    pending = replay.pending()
    try:
        replay.ship()
    except Exception as error:  # whatever the store raises is told, and the next run is tried
        replay.fail(error)
        print(f"{folder.path.name}: {replay.pending():,} rows still pending: {replay.state['error']}")
        return False
    print(f"{folder.path.name}: {pending:,} rows shipped to {without_secret(uri)}, run {replay.run_id}")
    return True


def settle(
    output_dir: Path,
    ended: list[RunFolder],
    uri: str,
    opened: "Callable[[], MlflowClient]",
    stop: Callable[[], bool],
) -> None:
    """Ship what earlier runs in ``output_dir`` still owe the store ``uri``: what a shipper does beside its own run.

    ``ended`` are those that were just found gone. Whatever fails waits for the next run, or for ``gradlab sync``; ``stop``
    is asked between two runs.
    """
    for folder in unshipped(output_dir, ended):
        if stop():
            return
        if tracking_uri(recorded_uri(folder)) == uri and ship_quietly(folder, uri, opened) is not None:
            return  # the others would meet the same


def ship_quietly(folder: RunFolder, uri: str, opened: "Callable[[], MlflowClient]") -> str | None:
    """Ship a run, or a sweep with all its runs, unless somebody else does; returns what the store said, if it failed."""
    with alone_with(folder) as alone:
        for run in [folder, *(folder.run_folders() if isinstance(folder, SweepFolder) else [])] if alone else []:
            replay = Replay(run, uri, opened)
            try:
                replay.ship()
            except Exception as error:  # whatever a store raises
                replay.fail(error)
                return str(replay.state["error"])
    return None


def unshipped(output_dir: Path, ended: "list[RunFolder] | None" = None) -> Iterator[RunFolder]:
    """The runs and sweeps directly in ``output_dir`` that are over and whose end is not in their store.

    Those whose store never answered are among them where they are in ``ended``, and meant to be tracked at all.
    """
    told = {folder.path for folder in ended or []}
    try:
        paths = sorted(output_dir.iterdir())
    except OSError:
        return
    for path in paths:
        folder = SweepFolder(path) if SweepFolder(path).record.exists() else RunFolder(path)
        try:
            shipped = json.loads(folder.shipped.read_text())
            if not shipped.get("ended"):
                yield folder
        except (OSError, ValueError, AttributeError):
            if path in told and OmegaConf.select(_config(folder), "tracking.name") == "mlflow":
                yield folder


def recorded_uri(folder: RunFolder) -> str | None:
    """The store that the run was shipped to, else the one that its configuration names, if any."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        shipped = str(json.loads(folder.shipped.read_text())["tracking_uri"])
        if "***@" not in shipped:  # a secret was left out of the record; the environment has it
            return shipped
    found = OmegaConf.select(_config(folder), "tracking.uri")
    return None if found is None else str(found)


def _config(folder: RunFolder) -> Any:
    return OmegaConf.load(folder.config) if folder.config.is_file() else OmegaConf.create()
