"""What a replay makes of the record of an earlier one."""

import json
import math
from pathlib import Path

import pytest

from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal
from gradlab.tracking.replay import Replay
from gradlab.tracking.views import charts_view, logarithms

URI = "sqlite:////nowhere/mlflow.db"


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", "null", '{"tracking_uri": "sqlite:///other.db", "offset": 9}']
)
def test_without_a_record_for_this_store_a_replay_starts_anew(tmp_path: Path, content: str | None) -> None:
    folder = RunFolder(tmp_path)
    if content is not None:
        folder.shipped.write_text(content)
    replay = Replay(folder, URI)
    assert replay.state["offset"] == 0
    assert replay.state["run_id"] is None
    assert not replay.ended


def test_a_record_for_this_store_is_taken_up(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.shipped.write_text(json.dumps({"tracking_uri": URI, "run_id": "a1", "offset": 9, "ended": True}))
    replay = Replay(folder, URI)
    assert (replay.run_id, replay.state["offset"], replay.ended) == ("a1", 9, True)


def test_numbers_that_are_not_finite_are_marked_and_never_0_or_1_8e308(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder, store = RunFolder(tmp_path), f"sqlite:///{tmp_path}/mlflow.db"
    journal = Journal(folder.journal)
    journal.write("run", id="r.1", name="r", experiment="gradlab", params={}, tags={})
    rows = {"train/loss": [2.0, 1.0, math.inf, math.nan], "val/loss": [1.0, -math.inf, 3.0, 4.0]}
    for step in range(4):
        journal.metrics(step, {name: values[step] for name, values in rows.items()})
    journal.metrics(4, {"test/loss": math.nan})  # a row without any number
    journal.close()
    for _ in range(2):
        replay = Replay(folder, store)
        replay.ship()
        folder.shipped.unlink()  # so that all of it is shipped again
    client = MlflowClient(store)
    run = client.get_run(replay.run_id)
    for name, values in rows.items():
        history = client.get_metric_history(replay.run_id, name)
        assert [(row.step, row.value) for row in history] == [
            (step, value) for step, value in enumerate(values) if math.isfinite(value)
        ]
    assert "test/loss" not in run.data.metrics
    marks = {key: value for key, value in run.data.tags.items() if key.startswith("gradlab.not_finite")}
    assert marks == {
        "gradlab.not_finite.train/loss": "inf at step 2; nan at step 3",
        "gradlab.not_finite.val/loss": "-inf at step 1",
        "gradlab.not_finite.test/loss": "nan at step 4",
    }
    assert "- `train/loss`: inf at step 2; nan at step 3" in run.data.tags["mlflow.note.content"]


def test_a_swept_rate_is_drawn_by_its_logarithm() -> None:
    ((_, view),) = charts_view("abc", ["optimizer.name", "optimizer.lr", "seed"]).items()
    scatter, parallel, *_ = json.loads(view)["compareRunCharts"]
    assert (scatter["type"], scatter["xaxis"]) == ("SCATTER", {"key": "log10_lr", "type": "PARAM"})
    assert parallel["selectedParams"] == ["optimizer.name", "log10_lr", "seed"]
    assert len(view) < 5000  # what MLflow takes for a tag of an experiment
    assert [logarithms({"optimizer.lr": rate}) for rate in (0.01, "3e-4")] == [
        {"log10_lr": "-2"},
        {"log10_lr": "-3.52288"},
    ]
    assert logarithms({}) == logarithms({"optimizer.lr": 0}) == {}
