"""Collect what gradlab needs on a machine without a network; see scripts/offline_bundle.sh."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
TORCH_FAMILY = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.*")
"""What comes with torch for CUDA, and is nearly all of the six gigabytes."""
OLDEST_GLIBC = 5  # manylinux_2_5, which is manylinux1


@dataclass(frozen=True)
class Requirement:
    """One entry of a lock file: ``name``, its ``marker`` (or None) and its ``text`` with all hashes."""

    name: str
    marker: str | None
    text: str


def read_lock(file: Path) -> list[Requirement]:
    """The entries of a lock file with hashes."""
    joined = file.read_text().replace("\\\n", " ")
    found = re.finditer(r"^([A-Za-z0-9._-]+)==\S+(?:\s*;\s*(.*?))?\s+(?=--hash).*$", joined, re.MULTILINE)
    return [Requirement(canonicalize_name(entry[1]), entry[2], " ".join(entry[0].split())) for entry in found]


def wanted(entries: Sequence[Requirement], python: str, platform: str, have: Sequence[str]) -> list[Requirement]:
    """Those that a machine with Python ``python`` on ``platform`` lacks; ``have`` are names, ``torch`` for all that comes with it."""
    system = "win32" if platform.startswith("win") else "darwin" if platform.startswith("macosx") else "linux"
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_system": {"win32": "Windows", "darwin": "Darwin", "linux": "Linux"}[system],
        "platform_machine": "aarch64" if platform.endswith("aarch64") else "arm64" if platform.endswith("arm64") else "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "nt" if system == "win32" else "posix",
    }  # fmt: skip
    there = {canonicalize_name(name) for name in have}
    return [
        entry
        for entry in entries
        if not (entry.marker and not Marker(entry.marker).evaluate(environment))
        and entry.name not in there
        and not ("torch" in there and TORCH_FAMILY.fullmatch(entry.name))
    ]


def platforms_of(platform: str) -> list[str]:
    """``manylinux_2_28_x86_64`` and all older ones, whose wheels run there too."""
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if match is None:
        return [platform]
    names = [f"manylinux_2_{minor}_{match[2]}" for minor in range(int(match[1]), OLDEST_GLIBC - 1, -1)]
    return [
        *names,
        f"manylinux2014_{match[2]}",
        f"manylinux2010_{match[2]}",
        f"manylinux1_{match[2]}",
        f"linux_{match[2]}",
    ]


def download(entries: Sequence[Requirement], python: str, platform: str, into: Path) -> list[str]:
    """The files of ``entries``, each compared with its hashes: wheels, and sources of what has none. Returns the names of those.

    Raises:
        SystemExit: something cannot be had.
    """
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
    ]
    target = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    for name in platforms_of(platform):
        target += ["--platform", name]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "requirements.txt"

        def get(some: Sequence[Requirement], *how: str) -> bool:
            # Without markers: pip would evaluate them for this machine.
            file.write_text("".join(re.sub(r"\s;.*?(?=\s--hash)", "", entry.text) + "\n" for entry in some))
            return (
                subprocess.run([*pip, *how, "--dest", str(into), "-r", str(file)], capture_output=True).returncode == 0
            )

        if get(entries, *target):
            return []
        from_source = []
        for entry in entries:
            if get([entry], *target):
                continue
            if not get([entry], "--no-binary", ":all:", "--no-build-isolation"):
                raise SystemExit(
                    f"offline_bundle: there is neither a wheel of {entry.text.split()[0]} for {python} on {platform} nor its source."
                )
            from_source.append(entry.name)
    return from_source


INSTALL = """#!/usr/bin/env bash
# Install gradlab without a network: bash install.sh PROJECT [PYTHON]
#
# PROJECT is gradlab's folder; PYTHON (default: python{python}) a Python {python} that has {have}.
# Makes PROJECT/.venv, which sees that Python's own packages, and installs these beside them.
set -euo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd -P)"
project="$(cd "${{1:?which folder is gradlab in?}}" && pwd -P)"
python="${{2:-python{python}}}"
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
[ "$version" = "{python}" ] || {{ echo "install.sh: this bundle is for Python {python}, and $python is $version" >&2; exit 1; }}
"$python" -m venv --system-site-packages "$project/.venv"
# Where PYTHON is of an environment itself, that one's packages are not the system's: they are named to the new one.
"$python" - "$project/.venv" <<'NAME_PACKAGES'
import pathlib, sys, sysconfig
if sys.prefix != sys.base_prefix:
    names = sys.argv[1], "lib", "python%d.%d" % sys.version_info[:2], "site-packages", "of_python.pth"
    pathlib.Path(*names).write_text("\\n".join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])) + "\\n")
NAME_PACKAGES
pip=("$project/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$here")
"${{pip[@]}}" --no-deps --require-hashes -r "$here/build.txt"
"${{pip[@]}}" --no-deps --no-build-isolation --require-hashes -r "$here/requirements.txt"
"${{pip[@]}}" --no-deps --no-build-isolation --editable "$project"
"$project/.venv/bin/python" -c 'import hydra, mlflow, torch, torchvision, gradlab.lightning; print("torch", torch.__version__)'
echo "gradlab is installed in $project/.venv"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="offline_bundle.sh", description="Collect what a machine without a network lacks."
    )
    parser.add_argument(
        "--python", default="3.12", choices=("3.11", "3.12", "3.13"), help="its Python (default: %(default)s)"
    )
    parser.add_argument("--platform", default="manylinux_2_28_x86_64", help="its platform (default: %(default)s)")
    parser.add_argument(
        "--have", default="", metavar="NAME,…", help="what it has already; torch stands for all that comes with it"
    )
    parser.add_argument(
        "--tests", action="store_true", help="with what the tests need (scripts/gpu_check.sh runs some)"
    )
    parser.add_argument("--into", type=Path, default=ROOT / "offline-bundle", help="(default: offline-bundle/)")
    parsed = parser.parse_args()
    if parsed.into.exists() and any(parsed.into.iterdir()):
        raise SystemExit(
            f"offline_bundle: {parsed.into} is not empty; it is left alone. Name another folder by --into."
        )
    parsed.into.mkdir(parents=True, exist_ok=True)
    have = [name for name in parsed.have.split(",") if name]
    entries = wanted(
        read_lock(ROOT / "requirements" / ("test.txt" if parsed.tests else "run.txt")),
        parsed.python,
        parsed.platform,
        have,
    )
    from_source = download(entries, parsed.python, parsed.platform, parsed.into)
    lines = [re.sub(r"\s;.*?(?=\s--hash)", "", entry.text) + "\n" for entry in entries]
    (parsed.into / "requirements.txt").write_text("".join(lines))
    (parsed.into / "build.txt").write_text("".join(line for line in lines if line.startswith("setuptools==")))
    install = parsed.into / "install.sh"
    install.write_text(INSTALL.format(python=parsed.python, have=", ".join(have) or "nothing but itself"))
    shutil.copymode(ROOT / "scripts" / "offline_bundle.sh", install)
    size = sum(file.stat().st_size for file in parsed.into.iterdir())
    sources = f", of {', '.join(from_source)} as source" if from_source else ""
    print(f"{len(entries)} packages{sources}, {size / 1e6:,.0f} MB, in {parsed.into}")
    print(f"There: bash {parsed.into.name}/install.sh GRADLAB_FOLDER PYTHON")


if __name__ == "__main__":
    main()
