"""``gradlab ui``: MLflow's own server over a store, small and quick, on this machine only."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import IO, TYPE_CHECKING

from gradlab.errors import ConfigError, GradlabError
from gradlab.settings import check_store, without_secret
from gradlab.tracking.store import VIEW, open_client, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment

HOST = "127.0.0.1"
UNSAFE_PORTS = {5060, 5061, 6000, 6566, *range(6665, 6670), 6697, 10080}
"""Ports above 5000 that browsers refuse to open (https://fetch.spec.whatwg.org/#port-blocking)."""


def serve(uri: str | None, experiment: str, port: int) -> int:
    """Serve the store until Ctrl-C. Prints the address that lands on the experiment's runs."""
    store = tracking_uri(uri)
    if store.startswith(("http://", "https://")):
        print(f"{without_secret(store)} is a server already; open it in a browser.")
        return 0
    file = sqlite_file(store)
    if file is not None and not file.exists():
        raise ConfigError(
            f"there is no {file} yet: no run has been tracked in this folder. "
            "Train one first (python train.py), or name another store with --uri."
        )
    check_store(store)
    port = _free_port(port)
    log = tempfile.TemporaryFile()  # noqa: SIM115 — the server writes to it as long as it lives
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", store, "--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        # The job runner is for MLflow's language-model features; it costs 2.5 GB and five seconds.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )
    # Ended from outside, take the server along.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit(0))
    try:
        found = _experiment(store, experiment)
        _wait_until_it_answers(server, port, log)
        print(f"http://{HOST}:{port}/#/{_page(found)}", flush=True)
        print("MLflow's pages are served until Ctrl-C.", flush=True)
        return server.wait()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _experiment(store: str, name: str) -> "Experiment | None":
    try:
        return open_client(store).get_experiment_by_name(name)
    except Exception as error:  # whatever MLflow and the database below it raise
        what = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise GradlabError(f"the store {without_secret(store)} cannot be opened ({what})") from error


def _page(experiment: "Experiment | None") -> str:
    """The address within MLflow's pages; "machine_learning" because its first mode shows language-model traces."""
    if experiment is None:
        return "experiments"
    view = f"&viewStateShareKey={VIEW}" if f"mlflow.sharedViewState.{VIEW}" in experiment.tags else ""
    return f"experiments/{experiment.experiment_id}/runs?workflowType=machine_learning{view}"


def _free_port(first: int) -> int:
    """``first``, or the next port of this machine that nothing listens on and that browsers open."""
    for port in range(first, first + 100):
        if port in UNSAFE_PORTS:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise GradlabError(f"the ports {first} to {first + 99} of {HOST} are all taken; choose another with --port")


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int, log: IO[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            raise GradlabError(f"MLflow's server did not start:\n{log.read().decode()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise GradlabError(f"MLflow's server did not answer within {seconds:.0f} s")
