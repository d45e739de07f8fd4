"""What a run was made with and on: versions, hardware, source. All of it without importing torch.

Asked once for a process: it is about the code that was imported, whatever has been changed on disk since.
"""

import functools
import getpass
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "mlflow", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a result."""
    found = {"gradlab": importlib.metadata.version("gradlab"), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


@functools.cache
def processor() -> str:
    """The CPU's model and the number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def user() -> str:
    """Who runs this: the login name, or the numeric id in a container that has no name for it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


@functools.cache
def source() -> dict[str, str]:
    """The git commit of the code that runs, and whether its tree had changes; empty outside a repository."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": "unknown" if changes is None else str(bool(changes)).lower()}


def command(*arguments: str) -> str:
    """The ``gradlab`` command as this user can type it: by its name where that is found, else by its path."""
    script = Path(sys.executable).parent / "gradlab"
    found = shutil.which("gradlab")
    name = "gradlab" if found and Path(found).resolve() == script.resolve() else str(relative(script))
    return shlex.join([name, *arguments])


def relative(path: Path) -> Path:
    """``path`` from the working directory where it is below it, as a person would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
