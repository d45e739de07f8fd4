"""A SLURM and a Ray of this one machine, for benchmarks and for the slow tests."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from executors.running import ROOT, environment_of

RAY = Path(sys.executable).parent / "ray"
MOUNTED = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh"]
"""Before a folder and a command: the command sees nothing in that folder."""


def slurm_is_here() -> bool:
    path = f"{os.environ['PATH']}:/usr/sbin"
    return all(shutil.which(program, path=path) for program in ("slurmctld", "slurmd", "munged", "sbatch"))


@contextlib.contextmanager
def slurm(folder: Path, nodes: int, cores: int) -> Iterator[dict[str, str]]:
    """The variables of a SLURM of this machine, which keeps its files in ``folder``."""
    script = ["bash", str(ROOT / "scripts/slurm_cluster.sh")]
    subprocess.run([*script, "start", str(folder), str(nodes), str(cores)], check=True, stdout=subprocess.DEVNULL)
    try:
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([*script, "stop", str(folder)], check=True)


class RayCluster:
    """Nodes of Ray on this machine, each a process group.

    Args:
        folder: where nodes keep logs and sockets; its path must be short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # Ray's workers are nice to all else on a machine, by 15; on a busy one they would take for ever.
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_worker_niceness": "0"}
        self.nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """The override that has a sweep join it."""
        return f"hydra.launcher.ray.address=127.0.0.1:{self.port}"

    def add(self, cpus: int, *options: str, without: Path | None = None) -> None:
        """Start a node, the head first, and wait until it counts; one ``without`` a folder sees nothing in it."""
        where = [f"--address=127.0.0.1:{self.port}"]
        if not self.nodes:
            temporary = f"--temp-dir={self.folder / 'ray'}"
            where = ["--head", f"--port={self.port}", "--include-dashboard=false", temporary]
        mount = [*MOUNTED, str(without)] if without else []
        with (self.folder / f"node{len(self.nodes)}.log").open("w") as log:
            self.nodes.append(
                subprocess.Popen(
                    [*mount, str(RAY), "start", *where, f"--num-cpus={cpus}", *options, "--disable-usage-stats", "--block"],
                    env=environment_of(**self.variables), stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while self.active() < len(self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / f"node{len(self.nodes) - 1}.log").read_text())
            time.sleep(1)

    def active(self) -> int:
        """How many nodes the cluster says that it has."""
        told = subprocess.run(
            [str(RAY), "status", "--address", f"127.0.0.1:{self.port}"],
            env=environment_of(**self.variables), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return told.stdout.partition("Pending:")[0].count("node_")

    def kill(self, node: int) -> None:
        """SIGKILL to all processes of a node."""
        os.killpg(self.nodes[node].pid, signal.SIGKILL)
        self.nodes[node].wait()


@contextlib.contextmanager
def ray(folder: Path, *cpus: int) -> Iterator[RayCluster]:
    """A Ray of nodes with so many CPUs each."""
    cluster = RayCluster(folder)
    try:
        for count in cpus:
            cluster.add(count)
        yield cluster
    finally:
        for number, node in enumerate(cluster.nodes):
            if node.poll() is None:
                cluster.kill(number)
        time.sleep(1)


def available(names: list[str]) -> list[str]:
    """Those executors that can be had here."""
    there = {
        "local": True,
        "slurm": find_spec("submitit") is not None and slurm_is_here(),
        "ray": find_spec("ray") is not None,
    }
    return [name for name in names if there[name]]


@contextlib.contextmanager
def place(executor: str, folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Overrides and variables for a sweep with two workers by ``executor``, whose cluster is in ``folder``."""
    if executor == "local":
        yield ["hydra.launcher.workers=2"], {}
    elif executor == "slurm":
        with slurm(folder, 1, 2) as variables:
            yield ["hydra.launcher.executor=slurm", "hydra.launcher.workers=2"], variables
    else:
        with ray(folder, 2) as cluster:
            yield ["hydra.launcher.executor=ray", "hydra.launcher.workers=2", cluster.address], cluster.variables
