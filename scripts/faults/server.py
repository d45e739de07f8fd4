"""An MLflow tracking server that can be taken down and brought back, and PostgreSQL for it to stand on."""

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


class Server:
    """``mlflow server`` over a store of its own in ``folder``, or over ``store``. Down until ``up`` is called."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder = folder
        self.store = store or f"sqlite:///{folder}/server.db"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self, wait: bool = True) -> None:
        """Start it unless it runs, and return when it answers."""
        if self._process is None:
            self._start()
        deadline = time.monotonic() + 90
        while wait and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                if self._process is None or self._process.poll() is not None:
                    break
                time.sleep(0.2)
        if wait:
            raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def _start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                    *("--workers", "1", "--artifacts-destination", str(self.folder / "artifacts")),
                ],
                env={
                    **os.environ,
                    "MLFLOW_BACKEND_STORE_URI": self.store,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def down(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@functools.cache
def installed() -> Path | None:
    """The folder of PostgreSQL's programs, where they and a driver are there: bash scripts/services.sh"""
    found = [
        *Path("/usr/lib/postgresql").glob("*/bin"),
        *([Path(there).parent] if (there := shutil.which("initdb")) else []),
    ]
    return found[0] if found and importlib.util.find_spec("psycopg") else None


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The address of a database in a PostgreSQL server of its own."""
    programs = installed()
    assert programs is not None
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="gradlab-pg-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        data = folder / "data"
        run("initdb", "-D", str(data), "-A", "trust", "-U", "gradlab")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            run("createdb", "-h", str(folder), "-U", "gradlab", "mlflow")
            yield f"postgresql://gradlab@/mlflow?host={folder}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
