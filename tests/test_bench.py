"""The benchmark's own pieces, tried with next to no work: figures are not looked at, but that there are some is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks import growth, steps
from benchmarks.turns import Turn, record, take_turns
from benchmarks.workloads import SMALL, WORKLOADS, compose
from gradlab.data.datasets.base import DATASETS

BENCH = Path(__file__).resolve().parents[1] / "scripts" / "bench.py"


@pytest.fixture(autouse=True)
def registered_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """data=random_images is no choice of gradlab's: the next test file must not see it."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.delitem(sys.modules, "benchmarks.random_images", raising=False)
    monkeypatch.delattr(benchmarks, "random_images", raising=False)


def test_ways_take_turns_and_a_broken_one_is_told() -> None:
    seats = {"gradlab safe": ("gradlab safe", SMALL), "no such speed": ("gradlab fast", SMALL)}
    taken, broken = take_turns(seats, Path("data"), 2, 0.02)
    assert set(taken) == {"gradlab safe"}
    assert set(broken) == {"no such speed"}
    assert "trainer.speed" in broken["no such speed"]
    assert len(taken["gradlab safe"]) == 2
    assert all(turn.steps > 0 and turn.seconds >= 0.02 and turn.memory > 0 for turn in taken["gradlab safe"])


def test_a_record_has_the_median_and_the_ends() -> None:
    found = record([Turn(10, 1e-3, 2e-3, 2**20), Turn(10, 3e-3, 2e-3, 3 * 2**20), Turn(10, 2e-3, 2e-3, 2**20)])
    assert found["microseconds_per_step"] == {"median": 200.0, "min": 100.0, "max": 300.0}
    assert found["processor_microseconds_per_step"] == {"median": 200.0, "min": 200.0, "max": 200.0}
    assert found["memory_mib"] == 3


def test_every_workload_can_be_composed() -> None:
    for workload in WORKLOADS:
        if not workload.published:
            config = workload.config(Path("data"))
            assert config.spec.train_examples > 0
            assert config.horizon.total_steps == 1_000_000_000
    assert compose(["data=random_images", "data.shape=[1,9,7]"]).spec.image_shape == (1, 9, 7)


def test_growth_varies_one_thing() -> None:
    for choices in growth.variants(quick=False).values():
        configs = [workload.config(Path("data")).composed for workload in choices.values()]
        differing = {key for key in configs[0] if any(config[key] != configs[0][key] for config in configs)}
        assert len(differing) == 1


@pytest.mark.slow
def test_the_quick_form_runs_every_part(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--quick", "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file.name.partition("_")[0] for file in tmp_path.glob("*.json")} == {"start", "steps", "overhead", "growth"}
    (found,) = json.loads(next(tmp_path.glob("steps_*.json")).read_text())["results"]
    assert not found["failed"], found["failed"]
    assert set(found["ways"]) == set(steps.ways(compiled=False))
    assert found["floor_microseconds"]["larger"] > 0
