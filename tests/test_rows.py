"""Rows that are inserted into MLflow's tables, beside those that its own ``log_batch`` writes."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gradlab.tracking import rows
from gradlab.tracking.store import open_client

TABLES = {
    "metrics": "key, value, timestamp, step, is_nan",
    "latest_metrics": "key, value, timestamp, step, is_nan",
    "tags": "key, value",
    "params": "key, value",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture(scope="module")
def client(store: Path) -> Any:
    return open_client(f"sqlite:///{store}")


def metrics(*given: tuple[str, float, int, int]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for key, value, timestamp, step in given]


def table(store: Path, name: str, run: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(store)) as database:
        return sorted(database.execute(f"SELECT {TABLES[name]} FROM {name} WHERE run_uuid = ?", (run,)))


def test_they_are_those_of_log_batch(store: Path, client: Any) -> None:
    """Also where they come twice, out of order, with equal steps and beside others of the same name."""
    theirs, ours = (client.create_run("0").info.run_id for _ in range(2))
    batches = [
        metrics(
            ("train/loss", 2.5, 10, 1), ("train/loss", 1.5, 11, 2), ("lr", 0.1, 10, 1), ("val acc-1.0:x", -0.0, 5, 0)
        ),
        metrics(("train/loss", 1.5, 11, 2), ("train/loss", 0.5, 9, 0), ("lr", 1e-300, 12, 2), ("lr", 3, 12, 2)),
        metrics(("train/loss", 9.0, 11, 2), ("lr", 0.2, 13, 1), ("lr", 7.0, 12, 2)),
    ]
    for batch in batches:
        client.log_batch(theirs, metrics=batch)
        assert rows.insert(store, ours, batch)
    for name in ("metrics", "latest_metrics"):
        assert table(store, name, ours) == table(store, name, theirs) != []
    assert client.get_run(ours).data.metrics == client.get_run(theirs).data.metrics
    histories = [client.get_metric_history(run, "lr") for run in (ours, theirs)]
    assert [(row.step, row.value, row.timestamp) for row in histories[0]] == [
        (row.step, row.value, row.timestamp) for row in histories[1]
    ]


@pytest.mark.parametrize("name", ["a/../b", "/a", "a//b", "a\nb", "ä", "", "a" * 251, "a/"])
def test_a_name_is_left_to_mlflow_where_it_may_refuse_it(store: Path, client: Any, name: str) -> None:
    run = client.create_run("0").info.run_id
    assert not rows.insert(store, run, metrics(("fine", 1.0, 1, 1), (name, 1.0, 1, 1)))
    assert table(store, "metrics", run) == []


def test_a_run_that_is_deleted_or_missing_takes_none(store: Path, client: Any) -> None:
    run = client.create_run("0").info.run_id
    client.delete_run(run)
    for gone in (run, "0" * 32):
        assert not rows.insert(store, gone, metrics(("loss", 1.0, 1, 1)))
        assert table(store, "metrics", gone) == []


def test_other_tables_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE metrics (key TEXT PRIMARY KEY, value FLOAT)")
        database.execute("CREATE TABLE latest_metrics (key TEXT PRIMARY KEY, value FLOAT)")
    assert not rows.insert(file, "a", metrics(("loss", 1.0, 1, 1)))


def test_a_locked_store_is_said_and_takes_them_later(store: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "WAIT", 0.05)
    run = client.create_run("0").info.run_id
    batch = metrics(("loss", 1.0, 1, 1))
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            rows.insert(store, run, batch)
    assert rows.insert(store, run, batch)
    assert len(table(store, "metrics", run)) == 1


def test_tags_and_parameters_are_those_of_log_batch(store: Path, client: Any) -> None:
    from mlflow.entities import Param, RunTag

    theirs, ours = (client.create_run("0", tags={"mlflow.runName": "same"}).info.run_id for _ in range(2))
    for tags, params in (
        ({"gradlab.run": "a", "mlflow.note.content": "ä\n" * 2000}, {"optimizer.lr": "0.1", "seed": "0"}),
        ({"gradlab.run": "b", "empty": ""}, {"seed": "0", "model": "mlp"}),
    ):
        entities = [RunTag(*tag) for tag in tags.items()], [Param(*param) for param in params.items()]
        client.log_batch(theirs, tags=entities[0], params=entities[1])
        assert rows.insert(store, ours, tags=tags, params=params)
    for name in ("tags", "params"):
        assert table(store, name, ours) == table(store, name, theirs) != []
    assert client.get_run(ours).data.params == client.get_run(theirs).data.params
    assert client.get_run(ours).data.tags == client.get_run(theirs).data.tags


@pytest.mark.parametrize(
    ("tags", "params"),
    [
        ({"mlflow.runName": "another"}, {}),
        ({"long": "x" * 8001}, {}),
        ({"../up": "x"}, {}),
        ({"fine": "x"}, {"long": "x" * 6001}),
        ({"fine": "x"}, {"seed": "1"}),
    ],
)
def test_what_means_more_to_mlflow_is_left_to_it(
    store: Path, client: Any, tags: dict[str, str], params: dict[str, str]
) -> None:
    run = client.create_run("0").info.run_id
    client.log_param(run, "seed", "0")
    before = [table(store, name, run) for name in TABLES]
    assert not rows.insert(store, run, metrics(("loss", 1.0, 1, 1)), tags, params)
    assert [table(store, name, run) for name in TABLES] == before


def test_a_run_is_found_by_its_tag_in_its_experiment_as_long_as_it_is_not_deleted(store: Path, client: Any) -> None:
    run = client.create_run("0", tags={"gradlab.run": "that one"}).info.run_id
    assert rows.tagged(store, "0", "gradlab.run", "that one") == [run]
    assert rows.tagged(store, "0", "gradlab.run", "that") == []
    assert rows.tagged(store, client.create_experiment("other"), "gradlab.run", "that one") == []
    client.delete_run(run)
    assert rows.tagged(store, "0", "gradlab.run", "that one") == []


def test_a_run_is_found_whatever_has_become_of_the_rows_that_were_read_before(tmp_path: Path) -> None:
    """Rows that come later, in place of deleted ones, in a store that was made anew, and of deleted runs."""
    store = tmp_path / "mlflow.db"
    client = open_client(f"sqlite:///{store}")

    def made(value: str) -> str:
        return str(client.create_run("0", tags={"gradlab.run": value}).info.run_id)

    assert rows.tagged(store, "0", "gradlab.run", "first") == []
    runs = {value: made(value) for value in ("first", "second")}
    for value, run in runs.items():
        assert rows.tagged(store, "0", "gradlab.run", value) == [run]
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("DELETE FROM tags WHERE run_uuid = ?", (runs["second"],))  # the newest rows
    third = made("third")
    assert rows.tagged(store, "0", "gradlab.run", "second") == []
    assert rows.tagged(store, "0", "gradlab.run", "third") == [third]
    assert rows.tagged(store, "0", "gradlab.run", "first") == [runs["first"]]
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("DELETE FROM tags")
    assert rows.tagged(store, "0", "gradlab.run", "third") == []
    fourth = made("fourth")
    assert rows.tagged(store, "0", "gradlab.run", "fourth") == [fourth]
