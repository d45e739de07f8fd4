"""Opening an MLflow store: which one, and how, so that many processes may do it at once. Imports MLflow late."""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.tracking.views import runs_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"


def tracking_uri(given: str | None) -> str:
    """The store's URI: the one given, else the environment's, else the default; a relative SQLite path made absolute.

    May hold a secret, so it is never recorded as it is.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    file = sqlite_file(uri)
    return f"sqlite:///{file}" if file else uri


def sqlite_file(uri: str) -> Path | None:
    """The database file of a ``sqlite:///…`` URI, absolute; None for any other store."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).expanduser().absolute() if uri.startswith(prefix) else None


def leave_out_tables() -> None:
    """For a process that only ships: MLflow is imported as its slim distribution has it, a third faster.

    It logs tables too, by pandas and scipy, and goes without where they are not installed.
    """
    for name in ("pandas", "scipy"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # so it is not found


def open_client(uri: str) -> "MlflowClient":
    """A client of the store, its SQLite database made and migrated first.

    MLflow's own creation fails when two processes do it at once ("table experiments already exists"), so a lock beside
    the file lets one at a time do it; one that is made is opened by all at once.
    """
    # Tries again and waits are the shipper's business; MLflow's own would block it for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    file = sqlite_file(uri)
    if file is None:
        return MlflowClient(tracking_uri=uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not _is_made(file):
            stack.enter_context(_locked(file.with_name(f".{file.name}.lock"), 30, until=lambda: _is_made(file)))
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # the first call opens the store
        return client


def _is_made(file: Path) -> bool:
    """Whether the database has all its tables: the first experiment is the last thing that MLflow puts into a new one."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            return database.execute("SELECT 1 FROM alembic_version, experiments LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return False


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The id of the experiment ``name``, made where it does not exist.

    Artifacts of a local SQLite store go into ``mlartifacts/`` beside the database, by an absolute path: MLflow's own
    default is relative to whatever directory a process happens to run in.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        file = sqlite_file(uri)
        folder = hashlib.sha256(name.encode()).hexdigest()[:8] if re.search(r"[^\w.-]", name) else name
        location = (file.parent / "mlartifacts" / folder).as_uri() if file else None
        tags = {
            # Without this kind, MLflow's pages take an experiment for one of language-model traces.
            "mlflow.experimentKind": "custom_model_development",
            **runs_view(),  # where `gradlab ui` lands
        }
        try:
            return client.create_experiment(name, artifact_location=location, tags=tags)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise RuntimeError(
            f"the experiment '{name}' is deleted in MLflow. Choose another with tracking.experiment=…, or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


@contextlib.contextmanager
def _locked(path: Path, seconds: float, until: Callable[[], bool]) -> Iterator[None]:
    """Holds the lock ``path``, or goes on without it as soon as ``until`` says that it is not needed any more."""
    deadline = time.monotonic() + seconds
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if until():
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {path} for {seconds:.0f} s") from None
                time.sleep(0.1)
        yield
