"""``gradlab sync``: replays journals that did not reach their store while their runs trained."""

import contextlib
import fcntl
import json
from pathlib import Path

from omegaconf import OmegaConf

from gradlab.errors import ConfigError
from gradlab.settings import without_secret
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.replay import Replay
from gradlab.tracking.store import tracking_uri


def sync_runs(paths: list[Path], uri: str | None) -> int:
    """Ship every run named; returns 1 if a store failed. Doing it twice changes nothing."""
    folders = [RunFolder(path) for path in paths]
    for folder in folders:
        if not folder.journal.is_file():
            raise ConfigError(f"{folder.path} is not a run's folder: it has no {folder.journal.name}.")
    failed = False
    for folder in folders:
        store = tracking_uri(uri or _recorded_uri(folder))
        # A journal that is being written has a shipper of its own; both at once would make two MLflow runs.
        with folder.journal.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{folder.path.name}: still running, and shipped as it runs")
                continue
            failed |= not _sync(folder, store)
    return int(failed)


def _sync(folder: RunFolder, uri: str) -> bool:
    replay = Replay(folder, uri)
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
