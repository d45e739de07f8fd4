"""Sweeps that train their points as populations: real processes, and the same results as without."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from gradlab.config import build_config
from gradlab.data.cache import key_of
from gradlab.sweeps.grouping import group_of
from gradlab.tracking.folder import SweepFolder
from gradlab.tracking.journal import records
from processes import Finished, train

FAULTY = Path(__file__).parent / "faulty"
IMPORTABLE = os.pathsep.join([str(FAULTY), *filter(None, [os.environ.get("PYTHONPATH")])])
PARTS = ["--config-dir", str(FAULTY), "imports=[parts]"]
SMALL = ["trainer.max_steps=20", "trainer.max_epochs=null", "tracking=none", "-m"]


def results(finished: Finished) -> dict[str, dict[str, Any]]:
    """What each point of the one sweep came to, by its name."""
    (path,) = (finished.folder / "outputs").glob("*_sweep_*")
    folder = SweepFolder(path)
    points = json.loads((path / "sweep.json").read_text())["points"]
    return {
        point["name"]: {**json.loads((folder.path / point["folder"] / "result.json").read_text()), **point}
        for point in points
    }


def test_a_sweep_of_populations_ends_in_the_bits_of_single_runs(tmp_path: Path) -> None:
    swept = ["optimizer=sgd,adam", "optimizer.lr=0.001,0.01,1e30", "seed=0,1", *SMALL, "hydra.launcher.workers=2"]
    found = {}
    for population in ("3", "off"):
        folder = tmp_path / population
        folder.mkdir()
        finished = train(folder, *swept, f"hydra.launcher.population={population}")
        assert finished.status == 0, finished.out + finished.err
        found[population] = results(finished)
    together, alone = found["3"], found["off"]
    assert together.keys() == alone.keys()
    assert len(together) == 12
    assert {result["population"] for result in together.values()} == {3}
    assert {result["population"] for result in alone.values()} == {1}
    for name, result in alone.items():
        same = together[name]
        assert same["status"] == result["status"] == ("diverged" if "lr=1e30" in name else "finished"), name
        assert same["parameters_sha256"] == result["parameters_sha256"], name
        assert same["diverged"] == result["diverged"], name
        assert same["metrics"].get("test/accuracy") == result["metrics"].get("test/accuracy"), name


def test_a_member_that_fails_or_kills_its_worker_costs_no_other(tmp_path: Path) -> None:
    swept = [*PARTS, "optimizer=brittle", "optimizer.lr=1.0,2.0,13.0,17.0", *SMALL]
    finished = train(tmp_path, *swept, "hydra.launcher.population=4", "hydra.launcher.workers=1", PYTHONPATH=IMPORTABLE)
    assert finished.status == 1, finished.out + finished.err
    found = {name: (point["status"], point["reason"]) for name, point in results(finished).items()}
    assert found["lr=13"] == ("failed", "ArithmeticError: 13 is no learning rate")
    assert {name: status for name, (status, _) in found.items() if status != "failed"} == dict.fromkeys(
        ("lr=1", "lr=2", "lr=17"), "finished"
    )
    assert "ArithmeticError: 13 is no learning rate; they are trained one by one" in finished.out
    for journal in (finished.folder / "outputs").glob("*/runs/*/journal.jsonl"):
        kinds = [record["kind"] for record, _ in records(journal)]
        assert kinds.count("run") == kinds.count("end") == 1


def test_a_network_that_cannot_be_stacked_says_so_and_is_trained_alone(tmp_path: Path) -> None:
    swept = [*PARTS, "model=rows", "optimizer.lr=0.001,0.01,0.1", *SMALL]
    finished = train(tmp_path, *swept, "hydra.launcher.workers=1", PYTHONPATH=IMPORTABLE)
    assert finished.status == 0, finished.out + finished.err
    (told,) = [line for line in finished.out.splitlines() if "are trained one by one" in line]
    assert told.startswith("model=rows has ")
    assert "LSTM" in told
    assert {point["status"] for point in results(finished).values()} == {"finished"}


def test_the_size_of_populations_is_measured_once_and_remembered(tmp_path: Path) -> None:
    swept = ["optimizer.lr=0.001,0.002,0.004,0.008", *SMALL, "hydra.launcher.workers=1"]
    cache = str(tmp_path / "cache")
    lines = []
    for seed in (0, 1):
        finished = train(tmp_path, *swept, f"seed={seed}", XDG_CACHE_HOME=cache)
        assert finished.status == 0, finished.out + finished.err
        lines += [line for line in finished.out.splitlines() if line.startswith("4 points of adamw")]
    assert [line.endswith(end) for line, end in zip(lines, ("(measured)", "(remembered)"), strict=True)] == [True, True]
    assert lines[0].removesuffix("(measured)") == lines[1].removesuffix("(remembered)")


@pytest.mark.slow
def test_a_population_that_memory_does_not_hold_is_halved(tmp_path: Path) -> None:
    """By another worker: what the first one has left of its memory is in pieces."""
    swept = [*PARTS, "optimizer=hungry", "optimizer.lr=1.0,2.0,3.0,4.0,5.0", *SMALL]
    finished = train(tmp_path, *swept, "hydra.launcher.population=5", "hydra.launcher.workers=1", PYTHONPATH=IMPORTABLE)
    assert finished.status == 0, finished.out + finished.err
    told = [line for line in finished.out.splitlines() if "they are trained" in line]
    assert len(told) == 1
    assert "There is not enough memory" in told[0]
    assert told[0].endswith("they are trained in populations of 2")
    found = results(finished)
    assert {point["status"] for point in found.values()} == {"finished"}
    assert sorted(point["population"] for point in found.values()) == [1, 2, 2, 2, 2]


@pytest.mark.slow
def test_a_plan_of_compiled_steps_is_followed(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    """One that another sweep has made, taken over by name: each run has the steps of the plan, and says so."""
    length = ["trainer.max_steps=200", "trainer.max_epochs=null"]
    group = group_of(build_config(compose(*length)))
    assert group is not None
    named = tmp_path / "named.json"
    entry = {"group": key_of(group), "members": 1, "compiled": True}
    named.write_text(json.dumps({"version": 1, "groups": [entry]}))
    swept = [*length, "optimizer.lr=0.001,0.002", "tracking=none", "-m", "hydra.launcher.workers=1"]
    finished = train(tmp_path, *swept, f"hydra.launcher.plan={named}", timeout=900)
    assert finished.status == 0, finished.out + finished.err
    assert "2 points of adamw: alone, compiled (pinned)" in finished.out
    for result in results(finished).values():
        assert (result["speed"], result["population"]) == ("compiled", 1)
        assert result["plan"] == "alone, compiled (pinned)"
