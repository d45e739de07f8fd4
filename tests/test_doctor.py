"""``gradlab doctor``: every kind of trouble is named, with what to do."""

import json
import sqlite3
from pathlib import Path

import pytest

from gradlab.cpu.library import library
from gradlab.doctor import installation
from gradlab.doctor.data import look_at_data
from gradlab.doctor.device import look_at_device
from gradlab.doctor.finding import GOOD, NOTE, WRONG
from gradlab.doctor.installation import look_at_installation
from gradlab.doctor.places import look_at_disks, look_at_store
from gradlab.doctor.runs import look_at_runs
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.replay import Replay
from gradlab.tracking.store import open_client
from processes import gradlab
from test_ending import ELSEWHERE, GONE, begin


def test_a_healthy_place_is_told_as_json_and_ends_in_0(tmp_path: Path) -> None:
    finished = gradlab(tmp_path, "doctor", "--json")
    assert finished.status == 0, finished.out + finished.err
    said = json.loads(finished.out)
    assert said["wrong"] == 0
    about = {finding["about"] for finding in said["findings"]}
    assert about == {"installation", "device", "store", "disk", "data", "runs"}


def test_trouble_ends_in_1_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, but a text that is long enough for a header" * 20)
    finished = gradlab(tmp_path, "doctor")
    assert finished.status == 1
    assert "store        wrong" in finished.out
    assert "gradlab sync" in finished.out
    assert "1 thing is wrong" in finished.out


def test_versions_out_of_range_with_holes_and_beside_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = installation._version
    monkeypatch.setattr(installation, "_version", lambda name: {"torch": "2.8.0", "rich": None}.get(name, real(name)))
    found = list(look_at_installation())
    wrong = [finding.said for finding in found if finding.verdict == WRONG]
    assert any("torch 2.8.0 is not in the supported range" in said for said in wrong)
    assert any("CVE-2026-24747" in said for said in wrong)
    assert "rich is not installed" in wrong
    assert any(finding.verdict == NOTE and "not as locked" in finding.said for finding in found)


def test_stores(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert [finding.verdict for finding in look_at_store(uri)] == [NOTE]
    open_client(uri)
    (tmp_path / "mlflow.db").chmod(0o600)
    assert [finding.verdict for finding in look_at_store(uri)] == [GOOD]
    (tmp_path / "mlflow.db").chmod(0o644)
    assert [finding.verdict for finding in look_at_store(uri)] == [GOOD, NOTE]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'old'")
    finding, *_ = look_at_store(uri)
    assert (finding.verdict, "schema old" in finding.said) == (WRONG, True)
    assert "mlflow db upgrade" in finding.advice
    (finding,) = look_at_store("http://127.0.0.1:9")
    assert (finding.verdict, "does not answer" in finding.said) == (WRONG, True)
    (finding,) = look_at_store("nonsense")
    assert finding.verdict == WRONG


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.doctor.places.free_bytes", lambda path: 10**6)
    found = list(look_at_disks(tmp_path / "outputs", None))
    assert {finding.verdict for finding in found} == {WRONG}


def test_data(tmp_path: Path) -> None:
    assert [finding.verdict for finding in look_at_data(tmp_path)] == [NOTE]
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"x")
    (finding,) = look_at_data(tmp_path)
    assert (finding.verdict, "mnist" in finding.said, "incomplete" in finding.said) == (WRONG, True, True)
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes(b"x")
    (finding,) = look_at_data(tmp_path)
    assert (finding.verdict, "is damaged" in finding.said) == (WRONG, True)


def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    outputs = tmp_path / "outputs"
    gone, elsewhere = begin(outputs / "gone", GONE), begin(outputs / "elsewhere", ELSEWHERE)
    begin(outputs / "mine", None)
    found = [(finding.verdict, finding.said) for finding in look_at_runs(outputs, [], None)]
    assert any(verdict == NOTE and "gone" in said and "KILLED now" in said for verdict, said in found)
    assert any(verdict == NOTE and "elsewhere has no end" in said for verdict, said in found)
    assert any(verdict == WRONG and "gone is not all in MLflow" in said for verdict, said in found)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    gone.shipped.unlink()
    Replay(gone, f"sqlite:///{tmp_path}/mlflow.db").ship()
    found = [(finding.verdict, finding.said) for finding in look_at_runs(outputs, [elsewhere.path], None)]
    assert any("elsewhere was over, as you say" in said for _, said in found)
    assert not [said for verdict, said in found if verdict == WRONG]
    assert RunFolder(elsewhere.path).result.exists()


def test_a_machine_without_a_compiler_is_told_what_compiled_steps_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    found = list(look_at_device())
    library.cache_clear()
    assert (found[1].verdict, found[1].advice) == ("note", "Install a C compiler with OpenMP, such as gcc.")
    assert found[1].said.endswith("have torch's convolutions alone: there is no C compiler")
