"""``gradlab sync``: replays journals that did not reach their store while their runs trained."""

import contextlib
import fcntl
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from gradlab.errors import ConfigError
from gradlab.settings import without_secret
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
    for folder in folders:
        store = tracking_uri(uri or _recorded_uri(folder))
        # A journal that is being written has a shipper of its own; both at once would make two MLflow runs.
        with _lock_file(folder).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder.path.name}: still running, and shipped as it runs")
                continue
            failed |= not _sync(folder, store, functools.partial(clients, store))
    return int(failed)


def _meant(path: Path) -> list[RunFolder]:
    """The run in ``path``; with a sweep all its runs, and before a run of a sweep the sweep, below which it is nested."""
    sweep = SweepFolder(path)
    if sweep.record.is_file():
        return [sweep, *sweep.run_folders()]
    above = SweepFolder(sweep.path.parent.parent)
    return [above, RunFolder(path)] if above.record.is_file() else [RunFolder(path)]


def _lock_file(folder: RunFolder) -> Path:
    """The file that a shipper of this journal holds locked: the journal, or a sweep's lock for all its journals."""
    for path in (folder.path, folder.path.parent.parent):
        lock = SweepFolder(path).lock
        if lock.is_file():
            return lock
    return folder.journal


def _sync(folder: RunFolder, uri: str, opened: "Callable[[], MlflowClient]") -> bool:
    replay = Replay(folder, uri, opened)
    pending = replay.pending()
    try:
        replay.ship()
    except Exception as error:  # whatever the store raises is told, and the next run is tried
        replay.fail(error)
        print(f"{folder.path.name}: {replay.pending():,} records are still pending: {replay.state['error']}")
        return False
    print(f"{folder.path.name}: {pending:,} records shipped to {without_secret(uri)}, run {replay.run_id}")
    return True


def _recorded_uri(folder: RunFolder) -> str | None:
    """The store that the run was shipped to, else the one that its configuration names, if any."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        shipped = str(json.loads(folder.shipped.read_text())["tracking_uri"])
        if "***@" not in shipped:  # a secret was left out of the record; the environment has it
            return shipped
    config = OmegaConf.load(folder.config) if folder.config.is_file() else OmegaConf.create()
    found = OmegaConf.select(config, "tracking.uri")
    return None if found is None else str(found)
