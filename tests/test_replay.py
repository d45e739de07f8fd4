"""What a replay makes of the record of an earlier one."""

import json
from pathlib import Path

import pytest

from gradlab.tracking.folder import RunFolder
from gradlab.tracking.replay import Replay

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
