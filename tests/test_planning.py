"""Which points are trained at once, how many, and what is remembered of it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from gradlab.config import Config, build_config
from gradlab.errors import ConfigError
from gradlab.sweeps.grouping import group_of, parcels
from gradlab.sweeps.planning import Measured, Memory, plan
from gradlab.sweeps.plans import Plans, pinned
from gradlab.sweeps.record import Point
from gradlab.sweeps.seats import Seat
from gradlab.sweeps.settings import launching
from gradlab.tracking.folder import SweepFolder
from gradlab.tracking.journal import Journal, records
from processes import ROOT

Compose = Callable[..., DictConfig]
GIB = 1 << 30


def config(compose: Compose, *overrides: str) -> Config:
    return build_config(compose(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=0.5"],
        ["optimizer.betas=[0.5,0.9]", "optimizer.eps=1e-3", "optimizer.weight_decay=0.1"],
        ["seed=7"],
        ["init=zeros"],
        ["schedule=step", "schedule.gamma=0.3"],
        ["loss.label_smoothing=0.2"],
        ["model.dropout=0.4"],
    ],
    ids=" ".join,
)
def test_points_that_differ_in_numbers_make_one_group(compose: Compose, overrides: list[str]) -> None:
    model = ["model=cnn"]
    group = group_of(config(compose, *model))
    assert group is not None
    assert group == group_of(config(compose, *model, *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=sgd"],
        ["model.hidden=[64]"],
        ["data.batch_size=16"],
        ["trainer.max_epochs=3"],
        ["trainer.precision=fp64"],
        ["trainer.clip_norm=1"],
        ["averaging=ema"],
        ["augment=[flip]"],
        ["param_groups=no_decay"],
        ["data.val_fraction=0.2"],
    ],
    ids=" ".join,
)
def test_points_that_differ_in_kind_do_not(compose: Compose, overrides: list[str]) -> None:
    assert group_of(config(compose)) != group_of(config(compose, *overrides))


def test_bounds_of_gradients_are_numbers_where_both_have_one(compose: Compose) -> None:
    groups = [group_of(config(compose, f"trainer.clip_norm={bound}")) for bound in ("1", "2", "null")]
    assert groups[0] == groups[1] != groups[2]


def test_what_has_a_rhythm_of_its_own_is_trained_alone(compose: Compose) -> None:
    assert group_of(config(compose, "wrapper=sam")) is None
    assert group_of(config(compose, "wrapper=lookahead")) is None


def test_parcels_are_few_and_alike_and_there_is_one_for_each_worker() -> None:
    def sizes(points: int, most: int, workers: int) -> list[int]:
        made = parcels(["a"] * points, {"a": most}, workers)
        assert sorted(place for parcel in made for place in parcel) == list(range(points))
        return [len(parcel) for parcel in made]

    assert sizes(32, 8, 2) == [8, 8, 8, 8]
    assert sizes(27, 8, 2) == [6, 7, 7, 7]
    assert sizes(9, 32, 2) == [4, 5]
    assert sizes(3, 8, 4) == [1, 1, 1]
    assert sizes(5, 1, 2) == [1] * 5


def test_parcels_keep_groups_apart_and_the_points_order() -> None:
    made = parcels(["a", "b", None, "a", "b", "c"], {"a": 4, "b": 4}, 1)
    assert made == [[0, 3], [1, 4], [2], [5]]


PACES = [
    Measured(1, 400e-6, GIB // 10),
    Measured(4, 150e-6, GIB // 2),
    Measured(8, 140e-6, GIB),
    Measured(16, 300e-6, 2 * GIB),
]


def test_the_plan_is_the_size_of_the_least_time() -> None:
    assert plan(PACES, 32, 1000, 8 * GIB).members == 8
    assert plan(PACES, 6, 1000, 8 * GIB).members == 4  # 8 would be more than there are
    assert plan(PACES, 32, 1000, GIB + 1).members == 4  # half of the memory holds no more
    assert plan(PACES, 32, 1000, 1).members == 1
    assert plan(PACES, 32, 1000, 0).members == 8  # as on a GPU, where what was measured did fit
    assert plan([Measured(1, 1e-3, 0), Measured(2, 2e-3, 0)], 32, 1000, GIB).members == 1


def test_what_a_run_costs_beside_its_steps_counts() -> None:
    slower = [Measured(1, 100e-6, 0), Measured(8, 110e-6, 0)]
    assert plan(slower, 8, 10, GIB).members == 8
    assert plan(slower, 8, 100_000, GIB).members == 1


COMPILED = Measured(1, 100e-6, GIB // 10, compiling=7.2)


def test_compilation_is_counted_against_all_that_a_worker_has_to_do() -> None:
    ways = [*PACES, COMPILED]
    short, long = plan(ways, 32, 1000, 8 * GIB), plan(ways, 32, 100_000, 8 * GIB)
    assert (short.members, short.steps, long.members, long.steps) == (8, "eager", 1, "compiled")
    assert long.way == "alone, compiled (measured)"
    assert str(long).endswith("140 µs 8 at once, 300 µs 16 at once, 100 µs alone, compiled (in 7 s) (measured)")
    # Each worker compiles once, and two have half as many runs each to gain from it.
    assert plan(ways, 32, 8000, 8 * GIB, workers=1).steps == "compiled"
    assert plan(ways, 32, 8000, 8 * GIB, workers=2).steps == "eager"
    assert plan([PACES[0], COMPILED], 2, 8000, 8 * GIB).steps == "eager"


def test_a_plan_says_what_it_was_chosen_from() -> None:
    told = str(plan(PACES[:2], 8, 1000, 8 * GIB, how="remembered"))
    assert told == "4 at once; a step takes, for each, 400 µs alone, 150 µs 4 at once (remembered)"


def test_measurements_are_remembered_for_group_seat_and_the_sizes_that_were_possible(tmp_path: Path) -> None:
    memory, seat = Memory(tmp_path / "paces"), Seat(1, "")
    assert memory.recall("a", seat, 32) == []
    memory.keep("a", seat, 32, PACES)
    assert Memory(tmp_path / "paces").recall("a", seat, 40) == PACES
    assert (
        memory.recall("b", seat, 32)
        == memory.recall("a", Seat(2, ""), 32)
        == memory.recall("a", Seat(1, "0"), 32)
        == []
    )
    assert memory.recall("a", seat, 31) == memory.recall("a", seat, 64) == []
    (kept,) = (tmp_path / "paces").iterdir()
    kept.write_text("[{")
    assert memory.recall("a", seat, 32) == []


def test_the_launchers_setting_is_checked() -> None:
    usual: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "hydra" / "launcher" / "gradlab.yaml").read_text())
    del usual["_target_"]
    members = {told: launching({**usual, "population": told}).members for told in ("auto", "off", False, 8)}
    assert members == {"auto": None, "off": 1, False: 1, 8: 8}
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.plan and hydra\.launcher\.population=8 both say how many"):
        launching({**usual, "population": 8, "plan": "outputs"})
    for wrong in (1, 0, -2, "many", 2.5, True, None):
        with pytest.raises(ConfigError, match=r"hydra\.launcher\.population must be auto, off or a whole number ≥ 2"):
            launching({**usual, "population": wrong})


def test_what_does_not_fit_is_told_with_the_reason(compose: Compose) -> None:
    told = str(plan([*PACES[:2], Measured(8, math.inf, 3 * GIB)], 32, 1000, 4 * GIB))
    assert told == (
        "4 at once; a step takes, for each, 400 µs alone, 150 µs 4 at once; 8 at once would take 3 GiB, and a worker may take 2 GiB "
        "(measured)"
    )
    told = str(plan([*PACES[:2], Measured(8, math.inf, 3 * GIB)], 32, 1000, 0))
    assert told.endswith("150 µs 4 at once; 8 at once would take 3 GiB, and there is less (measured)")


def sweep_with(folder: Path) -> tuple[SweepFolder, Journal]:
    folder.mkdir()
    sweep = SweepFolder(folder)
    return sweep, Journal(sweep.journal)


def points_of(compose: Compose, count: int) -> list[Point]:
    configs = [config(compose, f"optimizer.lr={rate}") for rate in range(1, count + 1)]
    return [Point(str(number), f"lr={number}", [], each) for number, each in enumerate(configs)]


def test_a_plan_is_on_record_kept_by_a_resumed_sweep_and_taken_over_by_name(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    points = points_of(compose, 32)
    group = group_of(config(compose))
    assert group is not None
    folder, journal = sweep_with(tmp_path / "one")
    seat = Seat(1, "")
    plans = Plans(folder, journal, seat)
    assert plans.known(group, points, 8 * GIB) is None
    assert plans.measured(group, points, PACES, 8 * GIB).members == 8
    kept = json.loads((folder.path / "plan.json").read_text())
    (entry,) = kept["groups"]
    assert (entry["members"], entry["how"], entry["about"]) == (8, "measured", "32 points of adamw")
    assert [one["members"] for one in entry["measured"]] == [1, 4, 8, 16]
    (tags,) = [record["tags"] for record, _ in records(folder.journal) if record["kind"] == "tags"]
    assert tags["gradlab.plan"].startswith("32 points of adamw: 8 at once; a step takes, for each, 400 µs alone")
    # Resumed with other memory free: as before. Another sweep: from what is remembered, and from the plan that it names.
    assert (again := Plans(folder, journal, seat).known(group, points, GIB)) is not None
    assert (again.members, again.way) == (8, "8 at once (as before)")
    other, its_journal = sweep_with(tmp_path / "other")
    assert (recalled := Plans(other, its_journal, seat).known(group, points, GIB // 2)) is not None
    assert recalled.way == "alone (remembered)"
    third, third_journal = sweep_with(tmp_path / "third")
    for named in (folder.path, folder.path / "plan.json"):
        assert (
            taken := Plans(third, third_journal, seat, pinned=pinned(str(named))).known(group, points, 0)
        ) is not None
        assert taken.way == "8 at once (pinned)"
    for each in (journal, its_journal, third_journal):
        each.close()


@pytest.mark.parametrize(
    "content",
    [
        None,
        "[",
        '{"version": 1, "groups": [{"group": "a", "members": 0, "compiled": false}]}',
        '{"version": 2, "groups": []}',
    ],
)
def test_a_plan_that_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.plan=.* holds no plan .*hydra\.launcher\.population"):
        pinned(str(tmp_path))
