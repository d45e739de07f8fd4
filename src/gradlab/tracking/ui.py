"""``gradlab ui``: MLflow's own server over a store, small and quick, on this machine only."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from gradlab.errors import ConfigError, GradlabError
from gradlab.settings import MLflow, without_secret
from gradlab.tracking.store import VIEW, open_client, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment

HOST = "127.0.0.1"
UNSAFE_PORTS = {5060, 5061, 6000, 6566, *range(6665, 6670), 6697, 10080}
"""Ports above 5000 that browsers refuse to open (https://fetch.spec.whatwg.org/#port-blocking)."""


def serve(uri: str | None, experiment: str, port: int) -> int:
    """Serve the store until Ctrl-C. Prints the address that lands on the experiment's runs."""
    store = tracking_uri(MLflow("mlflow", uri, experiment))
    if store.startswith(("http://", "https://")):
        print(f"{without_secret(store)} is a server already; open it in a browser.")
        return 0
    file = sqlite_file(store)
    if file is not None and not file.exists():
        raise ConfigError(
            f"there is no {file} yet: no run has been tracked in this folder. "
            "Train one first (python train.py), or name another store with --uri."
        )
    port = _free_port(port)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", store, "--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        # The job runner is for MLflow's language-model features; it costs 2.5 GB and five seconds.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    # Ended from outside, take the server along.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit(0))
    try:
        found = open_client(store).get_experiment_by_name(experiment)
        _wait_until_it_answers(server, port)
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


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stderr is not None
            raise GradlabError(f"MLflow's server did not start:\n{server.stderr.read().decode()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise GradlabError(f"MLflow's server did not answer within {seconds:.0f} s")
