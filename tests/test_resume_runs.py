"""Real runs gone on with. Those that are really killed are in test_chaos.py."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gradlab.checkpoints import load_checkpoint, newest_checkpoint
from gradlab.tracking.journal import metric_rows, records
from processes import Finished, train

SHORT = ("trainer.max_epochs=null", "plots=false", "tracking=none", "trainer=cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of 60 steps that has finished."""
    return train(
        tmp_path_factory.mktemp("finished"), *SHORT, "trainer.max_steps=60", "optimizer=momentum", "optimizer.lr=0.02"
    )


def test_a_finished_run_has_nothing_to_resume(finished: Finished) -> None:
    before = (finished.run / "journal.jsonl").read_bytes()
    again = train(finished.folder, "resume=latest", "trainer.checkpoint_every=1 minutes")
    assert (again.status, again.err) == (0, "")
    assert "has finished already, after 60 steps: there is nothing to resume" in again.out
    assert (finished.run / "journal.jsonl").read_bytes() == before


def test_an_override_that_changes_the_result_is_named(finished: Finished) -> None:
    again = train(finished.folder, f"resume={finished.run}", "optimizer.momentum=0.5", "seed=3")
    assert again.status == 2
    assert "optimizer.momentum 0.9 → 0.5, seed 0 → 3 would change the result" in again.err
    assert "fork=true" in again.err
    assert again.err.count("\n") == 1


def test_a_fork_is_a_run_of_its_own(finished: Finished, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file()}
    again = train(
        tmp_path, f"resume={finished.run}", "fork=true", "optimizer.lr=0.01", "optimizer.momentum=0.5",
        "trainer.max_steps=100", "output_dir=outputs",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert f"starts from {finished.run} at step 60" in again.out
    assert {path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file()} == before
    assert again.result["forked_from"] == {"folder": str(finished.run), "step": 60}
    first = next(records(again.run / "journal.jsonl"))[0]
    assert first["parent"] == next(records(finished.run / "journal.jsonl"))[0]["id"]
    steps = [step for step, row in metric_rows(again.run / "journal.jsonl") if "lr" in row]
    assert (steps[0], steps[-1]) == (61, 100)
    _, state = load_checkpoint(again.run / "checkpoints" / "last")
    assert state["optimizer"]["param_groups"][0]["momentum"] == 0.5
    assert state["optimizer"]["param_groups"][0]["base_lr"] == 0.01


def test_a_run_may_be_made_longer(finished: Finished) -> None:
    longer = train(finished.folder, "resume=latest", "trainer.max_steps=90")
    assert longer.status == 0, longer.err
    assert longer.err == ""
    assert "goes on with" in longer.out
    assert re.search(r"60 → 90 steps long now, and schedule=cosine is that of 90 steps from here on", longer.out)
    assert longer.result["steps"] == 90
    assert json.loads((longer.run / "result_of_60_steps.json").read_text())["steps"] == 60
    rows = [step for step, row in metric_rows(longer.run / "journal.jsonl") if "train/loss" in row and "lr" in row]
    assert rows == sorted(set(rows))
    assert rows[-1] == 90
    kinds = [record["kind"] for record, _ in records(longer.run / "journal.jsonl")]
    assert (kinds.count("run"), kinds.count("resumed"), kinds.count("end")) == (1, 1, 2)


def test_without_a_checkpoint_a_run_begins_at_its_start(tmp_path: Path) -> None:
    """As one that was killed before its first."""
    whole = train(tmp_path, *SHORT, "trainer.max_steps=20")
    wanted = rows_of(whole)
    for name in ("result.json", "checkpoints/last", "checkpoints/best"):
        (whole.run / name).rename(tmp_path / Path(name).name)
    again = train(tmp_path, "resume=auto", *SHORT, "trainer.max_steps=20")
    assert again.status == 0, again.err
    assert "has no checkpoint yet: it is trained from its start" in again.out
    assert rows_of(again) == wanted
    assert again.result["parameters_sha256"] == json.loads((tmp_path / "result.json").read_text())["parameters_sha256"]


def rows_of(run: Finished) -> list[tuple[int, dict[str, Any]]]:
    return [
        (step, {key: value for key, value in row.items() if not key.startswith("throughput/")})
        for step, row in metric_rows(run.run / "journal.jsonl")
    ]


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(tmp_path: Path) -> None:
    whole = train(tmp_path, *SHORT, "trainer.max_steps=60", "trainer.checkpoint_every=10 steps")
    sha256 = whole.result["parameters_sha256"]
    wanted = rows_of(whole)
    checkpoints = whole.run / "checkpoints"
    content = bytearray((checkpoints / "last" / "tensors.safetensors").read_bytes())
    content[1000] ^= 1
    (checkpoints / "last" / "tensors.safetensors").write_bytes(content)
    before = newest_checkpoint(checkpoints)
    assert before is not None
    assert before.step < 60
    (whole.run / "result.json").unlink()  # as of a run that was killed after its last checkpoint
    again = train(tmp_path, "resume=latest")
    assert again.status == 0, again.err
    assert "is damaged: its checksum does not match its content. The one before it is used" in again.out
    assert again.result["parameters_sha256"] == sha256
    assert rows_of(again) == wanted
