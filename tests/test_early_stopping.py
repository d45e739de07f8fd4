"""Early stopping in real sweeps: what is stopped, how it is recorded, and that the best is the same as without."""

import json
import re
from pathlib import Path

from gradlab.tracking.journal import metric_rows, records
from processes import gradlab, train
from test_sweep_runs import stored, sweep_of

SHORT = ["model=logistic", "optimizer=adam", "trainer.max_epochs=null", "trainer.max_steps=120"]
ASHA = [
    *("-m", *SHORT, "trainer.validate_every='10 steps'", "optimizer.lr=0.03,1e-5,1e-6", "seed=0,1"),
    *("hydra.launcher.workers=1", "hydra.launcher.population=off", "hydra.launcher.early_stopping=asha"),
]


def test_hopeless_rates_are_stopped_and_the_best_is_the_same(tmp_path: Path) -> None:
    stopped = train(tmp_path, *ASHA, timeout=900)
    assert stopped.status == 0, stopped.out + stopped.err
    folder, sweep = sweep_of(tmp_path)
    ended = {point["name"]: point["status"] for point in sweep["points"]}
    # One worker: a first seed arrives alone, and one of two is half. So lr=1e-5 is judged, the second of two, by its first.
    statuses = {"lr=0.03": "finished", "lr=1e-5": "pruned", "lr=1e-6": "pruned"}
    assert ended == {f"{rate} seed={seed}": status for rate, status in statuses.items() for seed in (0, 1)}
    for point in sweep["points"]:
        run = folder.path / point["folder"]
        result = json.loads((run / "result.json").read_text())
        kinds = [record["kind"] for record, _ in records(run / "journal.jsonl")]
        assert (result["status"], kinds.count("end")) == (point["status"], 1)
        if point["status"] == "pruned":
            assert 12 <= result["steps"] < 120  # the first rung is at a tenth
            assert point["reason"] == result["reason"]
            assert "went on" in point["reason"]
            assert "test/accuracy" not in result["metrics"]
            assert not [row for _, row in metric_rows(run / "journal.jsonl") if "test/accuracy" in row]
    assert "6 done (4 pruned)" in stopped.out
    assert re.search(r"4 of 6 runs were stopped early as hopeless (at step \d+|between steps \d+ and \d+)", stopped.out)
    assert "2 of 3 settings have no finished run for that" in stopped.out
    parent, children = stored(tmp_path)
    assert parent.data.metrics["sweep/pruned"] == 4
    tags = [run.data.tags for run in children if run.data.tags["gradlab.status"] == "pruned"]
    assert len(tags) == 4
    assert all(int(each["gradlab.pruned_at_step"]) >= 12 and "went on" in each["gradlab.reason"] for each in tags)
    assert {run.info.status for run in children} == {"FINISHED"}
    shown = gradlab(tmp_path, "compare")
    assert "2 of 2 pruned" in shown.out
    best = json.loads((folder.path / "summary.json").read_text())["best"]
    assert best == "lr=0.03"

    # For a sweep with early stopping they are done; one without runs them, and only them, to the end.
    before = {run.path.name for run in folder.run_folders()}
    again = train(tmp_path, *ASHA, "resume=true", timeout=900)
    assert again.status == 0, again.out + again.err
    assert "6 of 6 points are done" in again.out
    assert {run.path.name for run in folder.run_folders()} == before
    whole = train(tmp_path, *ASHA[:-1], "resume=true", timeout=900)
    assert whole.status == 0, whole.out + whole.err
    assert "2 of 6 points are done" in whole.out
    assert {point["status"] for point in sweep_of(tmp_path)[1]["points"]} == {"finished"}
    assert len(folder.run_folders()) == len(before) + 4
    assert json.loads((folder.path / "summary.json").read_text())["best"] == best


def test_members_of_a_population_are_stopped_each_on_its_own(tmp_path: Path) -> None:
    halving = [*ASHA[:-2], "tracking=none", "hydra.launcher.population=6", "hydra.launcher.early_stopping=halving"]
    done = train(tmp_path, *halving, timeout=900)
    assert done.status == 0, done.out + done.err
    folder, sweep = sweep_of(tmp_path)
    assert {point["name"] for point in sweep["points"] if point["status"] == "finished"} == {
        "lr=0.03 seed=0",
        "lr=0.03 seed=1",
    }
    for point in sweep["points"]:
        result = json.loads((folder.path / point["folder"] / "result.json").read_text())
        assert (result["status"], result["population"]) == (point["status"], 6)
        assert (result["steps"] < 120) == (point["status"] == "pruned")
        assert (folder.path / point["folder"] / "checkpoints" / "last").is_dir()


def test_a_rung_that_no_run_reaches_is_refused(tmp_path: Path) -> None:
    late = train(tmp_path, *ASHA, "hydra.launcher.first_rung=50%")
    assert late.status == 2, late.out
    assert "could stop nothing: hydra.launcher.first_rung='50%' must lie within the first 1/3 of a run" in late.err
    assert not (tmp_path / "outputs").exists()
