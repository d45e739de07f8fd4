"""Real tracking servers: what a run leaves there is what it leaves in a file."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import ROOT, environment, gradlab, train

sys.path.insert(0, str(ROOT / "scripts"))
from faults.comparison import differences
from faults.server import Server, installed, postgresql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(params=["file", "server on SQLite", "server on PostgreSQL", "PostgreSQL"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a store of each kind."""
    with contextlib.ExitStack() as stack:
        if request.param == "file":
            yield f"sqlite:///{tmp_path}/mlflow.db"
            return
        if "PostgreSQL" in request.param and not installed():
            pytest.skip("needs PostgreSQL and psycopg: bash scripts/services.sh")
        database = stack.enter_context(postgresql()) if "PostgreSQL" in request.param else None
        if request.param == "PostgreSQL":
            assert database is not None
            yield database
            return
        (tmp_path / "server").mkdir()
        server = Server(tmp_path / "server", database)
        stack.callback(server.down)
        server.up()
        yield server.uri


def test_every_store_has_what_the_journal_has(tmp_path: Path, store: str) -> None:
    finished = train(
        tmp_path, "trainer.max_epochs=5", "trainer.log_every=1 steps", MLFLOW_TRACKING_URI=store, timeout=900
    )
    assert finished.status == 0, finished.err
    assert "rows pending" not in finished.out
    assert differences(finished.run, store) == ([], 0)
    again = gradlab(tmp_path, "sync", str(finished.run), "--uri", store)
    assert ": 0 rows shipped" in again.out
    # Without its record a replay starts from the beginning, and still nothing is there twice.
    (finished.run / "mlflow.json").unlink()
    assert gradlab(tmp_path, "sync", str(finished.run), "--uri", store).status == 0
    assert differences(finished.run, store) == ([], 0)
    healthy = gradlab(tmp_path, "doctor", "--uri", store)
    assert "store        wrong" not in healthy.out, healthy.out


def test_runs_that_meet_an_empty_store_at_once(tmp_path: Path, store: str) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=1", "plots=false"]
    started = [
        subprocess.Popen(
            [*command, f"seed={seed}"], cwd=tmp_path, env=environment(MLFLOW_TRACKING_URI=store),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(3)
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out + err
    for run in (tmp_path / "outputs").iterdir():
        assert gradlab(tmp_path, "sync", str(run), "--uri", store).status == 0
        assert differences(run, store) == ([], 0)
