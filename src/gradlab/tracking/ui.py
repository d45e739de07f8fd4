"""``gradlab ui``: MLflow's own server over a store, small and quick, on this machine only."""

import errno
import importlib.util
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import IO

from gradlab.errors import ConfigError, GradlabError
from gradlab.settings import check_store, without_secret
from gradlab.tracking.store import open_client, sqlite_file, tracking_uri
from gradlab.tracking.views import RUNS, TAG, charts_key

HOST = "127.0.0.1"
UNSAFE_PORTS = {5060, 5061, 6000, 6566, *range(6665, 6670), 6697, 10080}
"""Ports above 5000 that browsers refuse to open (https://fetch.spec.whatwg.org/#port-blocking)."""

SAFE = {
    # The job runner is for MLflow's language-model features; it costs 2.5 GB and five seconds, and runs what it is sent.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # The assistant runs commands for whoever reaches the port, which on a shared machine are all its users.
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",
    "PYTHONSAFEPATH": "1",  # for `python -m` also imports what lies in the working directory
}
"""Settings of MLflow's server: it runs no code of models, jobs or visitors on this machine."""
CAREFREE = (
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
    "MLFLOW_GUNICORN_OPTS",  # with a server of another kind MLflow's checks of host and origin are not there
    "MLFLOW_WAITRESS_OPTS",
    "MLFLOW_UVICORN_OPTS",
    "MLFLOW_HOST",
    "MLFLOW_APP_NAME",
)
"""Variables of the environment that would take its checks away."""


def serve(uri: str | None, experiment: str, port: int, host: str = HOST) -> int:
    """Serve the store until Ctrl-C. Prints the address that lands on the experiment's runs.

    Raises:
        ConfigError: there is no store, or ``host`` lets others in and nothing asks them who they are.
    """
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
    options = [] if _is_this_machine(host) else _for_others(host)
    port = _free_port(port, host)
    log = tempfile.TemporaryFile()  # noqa: SIM115 — the server writes to it as long as it lives
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1", *options],
        env=_server_environment(store, shared=bool(options)),
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )
    # Ended from outside, take the server along.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit(0))
    try:
        pages = _pages(store, experiment)
        _wait_until_it_answers(server, host, port, log)
        for title, page in pages.items():
            print(f"http://{_in_address(host)}:{port}/#/{page}" + (f"  ({title})" if title else ""), flush=True)
        print("MLflow's pages are served until Ctrl-C.", flush=True)
        return server.wait()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _server_environment(store: str, shared: bool) -> dict[str, str]:
    """The environment of MLflow's server: what it must not do is switched off, whatever this user's own settings are."""
    environment = dict(os.environ)
    for variable in CAREFREE if shared else (*CAREFREE, "MLFLOW_SERVER_ALLOWED_HOSTS"):
        environment.pop(variable, None)
    # The address of the store may hold a password, and everybody on a machine sees the arguments of all processes.
    return environment | SAFE | {"MLFLOW_BACKEND_STORE_URI": store}


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _for_others(host: str) -> list[str]:
    """Options of MLflow's server with which it asks everybody for a name and a password.

    Raises:
        ConfigError: what it needs for that is not set up.
    """
    wanted = {
        "MLFLOW_AUTH_CONFIG_PATH": "names MLflow's file of users and permissions",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "is a long random text of your own",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "lists the names by which browsers will call it, such as my-machine:5000",
    }
    missing = [f"{variable} {what}" for variable, what in wanted.items() if not os.environ.get(variable)]
    if not missing and "*" in os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"]:
        missing.append("MLFLOW_SERVER_ALLOWED_HOSTS lists names, not '*'")
    if not missing and importlib.util.find_spec("flask_wtf") is None:
        missing.append("the package flask-wtf is there: pip install 'gradlab[auth]'")
    if missing:
        raise ConfigError(
            f"--host {host} would show the runs to everybody who reaches this machine, and let them change them, so it needs "
            f"MLflow's authentication. Missing is that {'; that '.join(missing)}. Or leave --host away, and from elsewhere "
            "come through ssh: ssh -L 5000:127.0.0.1:5000 this-machine"
        )
    return ["--app-name", "basic-auth"]


def _pages(store: str, name: str) -> dict[str, str]:
    """Where MLflow's pages show the experiment ``name``: its runs, and by their titles what else there is.

    Raises:
        GradlabError: the store cannot be opened.
    """
    try:
        client = open_client(store)
        found = client.get_experiment_by_name(name)
        if found is None:
            return {"": "experiments"}
        # "machine_learning", because the first mode of MLflow's pages shows language-model traces.
        runs = f"experiments/{found.experiment_id}/runs?workflowType=machine_learning"
        pages = {"": runs + (f"&viewStateShareKey={RUNS}" if TAG + RUNS in found.tags else "")}
        sweeps = client.search_runs([found.experiment_id], "tags.`gradlab.swept` != ''", max_results=1)  # the latest
        for sweep in sweeps:
            if TAG + (key := charts_key(sweep.info.run_id)) in found.tags:
                pages["charts of the last sweep"] = f"{runs}&compareRunsMode=CHART&viewStateShareKey={key}"
        return pages
    except Exception as error:  # whatever MLflow and the database below it raise
        what = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise GradlabError(f"the store {without_secret(store)} cannot be opened ({what})") from error


def _free_port(first: int, host: str) -> int:
    """``first``, or the next port of ``host`` that nothing listens on and that browsers open."""
    for port in range(first, first + 100):
        if port in UNSAFE_PORTS:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except socket.gaierror as error:
                raise ConfigError(f"--host {host}: {error.strerror}") from error
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ConfigError(f"--host {host} is no address of this machine.") from error
                continue
            return port
    raise GradlabError(f"the ports {first} to {first + 99} of {host} are all taken; choose another with --port")


def _in_address(host: str) -> str:
    """``host`` as an address has it."""
    return f"[{host}]" if ":" in host else host


def _wait_until_it_answers(
    server: "subprocess.Popen[bytes]", host: str, port: int, log: IO[bytes], seconds: float = 60
) -> None:
    """Returns when the server answers; its health is told to whoever asks, by any name."""
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            raise GradlabError(f"MLflow's server did not start:\n{log.read().decode()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{_in_address(host)}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise GradlabError(f"MLflow's server did not answer within {seconds:.0f} s")
