"""The set-up script's messages and its second call, as real shell processes; nothing is installed here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from processes import ROOT


def fake(folder: Path, name: str, script: str) -> None:
    """An executable ``name`` in ``folder``, to stand before the real one in PATH."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def call(script: str, folder: Path, path: str | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **variables, "PATH": path or os.environ["PATH"]}
    environment.pop("PYTHON", None)
    command = ["bash", str(ROOT / "scripts" / script), "--version"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture
def only_old_python(tmp_path: Path) -> str:
    """A PATH on which every Python says that it is too old."""
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        fake(tmp_path / "bin", name, 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    return f"{tmp_path / 'bin'}:/usr/bin:/bin"


def test_an_old_python_is_named_with_what_to_install(tmp_path: Path, only_old_python: str) -> None:
    done = call("train.sh", tmp_path, only_old_python, GRADLAB_VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, and found Python 3.9.2" in done.stderr
    assert "PYTHON=/path/to" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_small_disk_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    fake(
        tmp_path / "bin",
        "df",
        'echo "Filesystem 1024-blocks Used Available Capacity Mounted"; echo "/dev/x 9 9 3145728 9% /"',
    )
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = call("train.sh", tmp_path, path, GRADLAB_VENV=str(tmp_path / "a b" / "venv"))
    assert done.returncode == 1
    assert "needs 8 GB" in done.stderr
    assert "finds 3 GB free" in done.stderr
    assert "GRADLAB_VENV=" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "home" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    done = call("train.sh", tmp_path, GRADLAB_VENV=str(precious.parent))
    assert done.returncode == 1
    assert "left alone" in done.stderr
    assert precious.read_text() == "years of work"


def test_a_broken_installation_says_so_and_a_rerun_goes_on(tmp_path: Path) -> None:
    """pip cannot reach anything: the environment stays, no stamp is written, and the next call starts over there."""
    environment = tmp_path / "venv"
    unreachable = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    for _ in range(2):
        done = call("train.sh", tmp_path, GRADLAB_VENV=str(environment), **unreachable)
        assert done.returncode == 1
        assert "run the same command again" in done.stderr
        assert (environment / "bin" / "python").exists()
        assert not list(environment.glob(".gradlab-*"))


def test_a_second_call_starts_python_at_once(tmp_path: Path) -> None:
    """With the stamp in place, the script runs Python without looking at packages; from any folder, spaces included."""
    elsewhere = tmp_path / "any folder"
    elsewhere.mkdir()
    environment = tmp_path / "venv with spaces"
    fake(environment, "dummy", "")
    fake(environment / "bin", "python", 'echo "started: $*"')
    files = [ROOT / "pyproject.toml", ROOT / "requirements" / "run.txt", ROOT / "requirements" / "test.txt"]
    content = b"".join(file.read_bytes() for file in files)
    checksum = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout.decode().strip()
    (environment / ".gradlab-run").write_text(f"{checksum} {ROOT}\n")
    done = call("train.sh", elsewhere, GRADLAB_VENV=str(environment))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"started: {ROOT / 'train.py'} --version\n"
    assert done.stderr == ""


def test_the_lock_names_no_package_index() -> None:
    for file in (ROOT / "requirements").iterdir():
        text = file.read_text()
        assert "://" not in text
        assert "--index" not in text
        entries = [line for line in text.splitlines() if "==" in line]
        assert entries
        assert text.count("--hash=sha256:") >= len(entries)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [str(script) for script in (ROOT / "scripts").glob("*.sh")]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
