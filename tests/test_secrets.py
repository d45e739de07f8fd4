"""Passwords and tokens of the environment are in nothing that a run writes, and others read nothing of it."""

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gradlab.errors import ConfigError
from gradlab.secrecy import redacted, secrets
from gradlab.tracking.ui import CAREFREE, SAFE, _for_others, _is_this_machine, _server_environment
from processes import environment, gradlab, train

CANARIES: dict[str, Any] = {
    "MLFLOW_TRACKING_PASSWORD": "canary-password",
    "MLFLOW_TRACKING_TOKEN": "canary-token",
    "AWS_SECRET_ACCESS_KEY": "canary-key",
    "HF_TOKEN": "canary-hub",
}


def written_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_counts_as_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, value in {**CANARIES, "MY_API_KEY_FILE": str(tmp_path), "SHORT_TOKEN": "x"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("STORE", "postgresql://name-only:canary%2Fdb@host/db")
    monkeypatch.setenv("OTHER_STORE", "postgresql://gradlab@host/db")
    found = secrets()
    assert {*CANARIES.values(), "canary%2Fdb", "canary/db"} <= set(found)
    assert str(tmp_path) not in found
    assert not {"x", "gradlab", "name-only"} & set(found)
    assert (
        redacted("psql: canary/db at postgresql://name-only:canary%2Fdb@host") == "psql: *** at postgresql://***@host"
    )


def test_no_secret_in_anything_that_a_run_writes(tmp_path: Path) -> None:
    """A store with a password in its address, which refuses the run, so that its errors are recorded, too."""
    with socket.socket() as listening:  # accepts nothing: no server behind it
        listening.bind(("127.0.0.1", 0))
        uri = f"http://me:canary-address@127.0.0.1:{listening.getsockname()[1]}"
        finished = train(tmp_path, "trainer.max_epochs=1", timeout=900, MLFLOW_TRACKING_URI=uri, **CANARIES)
        assert finished.status == 0, finished.err
        assert "rows pending" in finished.out
        synced = gradlab(tmp_path, "sync", str(finished.run), MLFLOW_TRACKING_URI=uri, **CANARIES)
        assert synced.status == 1
    shipped = gradlab(tmp_path, "sync", str(finished.run), "--uri", f"sqlite:///{tmp_path}/mlflow.db", **CANARIES)
    assert shipped.status == 0, shipped.out + shipped.err
    said = "".join(one.out + one.err for one in (finished, synced, shipped))
    assert "canary" not in said
    assert b"canary" not in written_below(tmp_path)


def test_a_failure_that_quotes_a_secret_is_recorded_without_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import os\nraise ImportError(os.environ['MLFLOW_TRACKING_PASSWORD'])\n")
    finished = train(tmp_path, "imports=[own]", PYTHONPATH=_with(tmp_path), **CANARIES)
    assert finished.status == 2
    assert b"canary-password" not in written_below(tmp_path / "outputs")


def _with(folder: Path) -> str:
    return ":".join(filter(None, [str(folder), environment().get("PYTHONPATH")]))


def test_what_a_run_makes_is_its_user_s_alone(tmp_path: Path) -> None:
    finished = train(tmp_path, "trainer.max_epochs=1", "plots=false")
    assert finished.status == 0, finished.err
    for path in (finished.run, tmp_path / "mlflow.db", tmp_path / "mlartifacts"):
        assert path.stat().st_mode & 0o077 == 0, path


# ------------------------------------------------------------------------ gradlab ui


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_addresses_of_this_machine(host: str) -> None:
    assert _is_this_machine(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "my-machine", ""])
def test_another_address_is_refused_without_authentication(tmp_path: Path, host: str) -> None:
    assert not _is_this_machine(host)
    (tmp_path / "mlflow.db").touch()
    finished = gradlab(tmp_path, "ui", "--host", host)
    assert finished.status == 2, finished.out
    assert "MLFLOW_AUTH_CONFIG_PATH" in finished.err
    assert "ssh -L" in finished.err


def test_authentication_takes_all_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": "a.ini",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "m:5000",
    }
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert _for_others("0.0.0.0") == ["--app-name", "basic-auth"]
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
    with pytest.raises(ConfigError, match="lists names, not"):
        _for_others("0.0.0.0")
    for variable in settings:
        monkeypatch.delenv(variable)
        with pytest.raises(ConfigError, match=variable):
            _for_others("0.0.0.0")


def test_mlflow_s_server_is_started_with_its_checks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*CAREFREE, *SAFE, "MLFLOW_SERVER_ALLOWED_HOSTS"):
        monkeypatch.setenv(variable, "*")
    made = _server_environment("postgresql://me:secret@host/db", shared=False)
    assert {variable: made.get(variable) for variable in SAFE} == SAFE
    assert not set(CAREFREE) & set(made)
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in made
    assert _server_environment("x", shared=True)["MLFLOW_SERVER_ALLOWED_HOSTS"] == "*"


def test_the_pages_answer_to_this_machine_s_names_only_and_show_no_password_to_ps(tmp_path: Path) -> None:
    train(tmp_path, "trainer.max_epochs=1", "plots=false")
    process = subprocess.Popen(
        [sys.executable, "-m", "gradlab", "ui", "--port", "5417"],
        cwd=tmp_path, env=environment(MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE="true"), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split("/#")[0]
        for host, status in (("evil.example", 403), ("127.0.0.1", 200)):
            asked = urllib.request.Request(
                f"{address}/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host}
            )
            try:
                answered = urllib.request.urlopen(asked, timeout=900).status
            except urllib.error.HTTPError as error:
                answered = error.code
            assert answered == status, host
        arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert f"{tmp_path}/mlflow.db" not in arguments
    finally:
        process.terminate()
        process.communicate(timeout=900)
