"""Early stopping decides as counted by hand."""

import itertools
import math
import random

import pytest

from gradlab.sweeps.halving import Halving, rungs


@pytest.mark.parametrize(
    ("first", "factor", "total", "expected"),
    [
        (82, 3, 820, [82, 246]),  # 738 is over a third of the run
        (1, 3, 27, [1, 3, 9]),
        (10, 3, 30, [10]),
        (11, 3, 30, []),
        (1.5, 2, 12, [2, 3, 6]),
        (0.4, 3, 100, []),
        (9.6, 4, 96, [10]),
    ],
)
def test_rungs_grow_by_the_factor_and_end_early(first: float, factor: float, total: int, expected: list[int]) -> None:
    assert rungs(first, factor, total) == expected


def single(accuracies: list[float], again: bool = False, factor: float = 3) -> tuple[Halving, list[set[str]]]:
    """Settings of one seed that arrive at one rung one after the other; whom each arrival stops."""
    halving = Halving(factor, again)
    for index in range(len(accuracies)):
        halving.add(f"p{index}", f"s{index}", [10])
    stopped = []
    for index, accuracy in enumerate(accuracies):
        halving.begun(f"p{index}")
        hopeless = halving.validated(f"p{index}", 10, accuracy, 1.0)
        stopped.append(set(hopeless))
        for point in hopeless:
            halving.ended(point, diverged=False)
    return halving, stopped


def test_asha_keeps_the_best_third_of_those_that_came_before() -> None:
    # n = 1, 2, 3: the best 1 goes on; n = 4, 5, 6: the best 2; n = 7: the best 3.
    _, stopped = single([0.5, 0.4, 0.6, 0.55, 0.7, 0.65, 0.6])
    #            place   1    2    1    2     1    2     3 (equal to the first 0.6, and none is strictly above both)
    assert stopped == [set(), {"p1"}, set(), set(), set(), set(), set()]
    _, stopped = single([0.9, 0.8, 0.7, 0.6, 0.5, 0.85, 0.95, 0.84])
    #            place   1    2    3    4    5    2 of 6 (2 go on)  1 of 7  4 of 8 (3 go on)
    assert stopped == [set(), {"p1"}, {"p2"}, {"p3"}, {"p4"}, set(), set(), {"p7"}]


def test_halving_judges_those_that_still_train_again() -> None:
    """As successive halving would: of 6 that train side by side the best 2 are left."""
    _, stopped = single([0.5, 0.6, 0.4, 0.7, 0.3, 0.8], again=True)
    # 0.6 stops 0.5; 0.4 is third of three; 0.7 and 0.6 are the best 2 of 4; 0.3 is last; 0.8 stops 0.6.
    assert stopped == [set(), {"p0"}, {"p2"}, set(), {"p4"}, {"p1"}]
    for order in itertools.permutations([0.3, 0.4, 0.5, 0.6, 0.7, 0.8]):
        stopped_in_all = set().union(*single(list(order), again=True)[1])
        left = {order[index] for index in range(6) if f"p{index}" not in stopped_in_all}
        assert left <= {0.7, 0.8}
        assert 0.8 in left


def test_the_reason_says_the_numbers() -> None:
    halving, _ = single([0.9, 0.8])
    halving.add("late", "s", [12])
    halving.begun("late")
    assert halving.validated("late", 15, 0.25, 2.0) == {
        "late": "25.00% validation accuracy at step 12: number 3 of the 3 settings there, of which 1 went on"
    }


def test_of_equal_accuracies_the_lower_loss_is_better_and_equals_go_on() -> None:
    halving = Halving(3, again=False)
    for name in "abcd":
        halving.add(name, name, [10])
        halving.begun(name)
    assert halving.validated("a", 10, 0.5, 1.0) == {}
    assert list(halving.validated("b", 10, 0.5, 1.1)) == ["b"]
    assert halving.validated("c", 10, 0.5, 1.0) == {}  # as good as the best
    assert halving.validated("d", 10, 0.5, 0.9) == {}


def seeds(settings: str, count: int, again: bool = False, quorum: int | None = None) -> Halving:
    halving = Halving(3, again, quorum)
    for setting in settings:
        for seed in range(count):
            halving.add(f"{setting}{seed}", setting, [10, 30])
    return halving


def test_settings_are_judged_by_the_mean_over_their_seeds_and_end_together() -> None:
    halving = seeds("ab", 2)
    for point in ("a0", "a1"):
        halving.begun(point)
        assert halving.validated(point, 10, 0.8, 1.0) == {}
    halving.begun("b0")
    halving.begun("b1")
    # The lucky seed of b is above every seed of a, and waits for its sister, who is on her way.
    assert halving.validated("b0", 10, 0.9, 1.0) == {}
    hopeless = halving.validated("b1", 11, 0.6, 1.0)
    assert set(hopeless) == {"b0", "b1"}
    assert hopeless["b0"].startswith("75.00% validation accuracy at step 10, the mean of 2 seeds: number 2 of the 2")


def test_a_setting_waits_for_half_of_its_seeds_and_later_ones_end_at_their_first_rung() -> None:
    halving = seeds("ab", 3)
    for point in ("a0", "a1"):
        halving.begun(point)
        halving.validated(point, 10, 0.8, 1.0)
    halving.begun("b0")
    assert halving.validated("b0", 10, 0.1, 1.0) == {}  # one of three is no half
    assert halving.validated("b0", 30, 0.1, 1.0) == {}
    halving.begun("b1")
    assert halving.validated("b1", 5, 0.1, 1.0) == {}  # no rung yet
    assert set(halving.validated("b1", 10, 0.1, 1.0)) == {"b0", "b1"}
    halving.ended("b0", diverged=False)
    halving.ended("b1", diverged=False)
    halving.begun("b2")
    assert halving.validated("b2", 9, 0.99, 0.1) == {}
    assert set(halving.validated("b2", 10, 0.99, 0.1)) == {"b2"}  # what was stopped stays stopped
    # Asked to, one seed decides.
    halving = seeds("ab", 3, quorum=1)
    for point, accuracy in (("a0", 0.8), ("b0", 0.1)):
        halving.begun(point)
        stopped = halving.validated(point, 10, accuracy, 1.0)
    assert set(stopped) == {"b0"}


def test_what_has_passed_a_rung_is_judged_at_the_next() -> None:
    halving = seeds("abc", 1)
    for point in ("a0", "b0", "c0"):
        halving.begun(point)
    assert halving.validated("a0", 10, 0.5, 1.0) == {}
    assert halving.validated("a0", 20, 0.1, 1.0) == {}  # between rungs nothing is decided
    assert halving.validated("b0", 10, 0.6, 1.0) == {}
    assert halving.validated("b0", 30, 0.7, 1.0) == {}
    assert set(halving.validated("a0", 31, 0.65, 1.0)) == {"a0"}
    # One validation may reach two rungs.
    assert halving.validated("c0", 35, 0.95, 1.0) == {}


def test_diverged_seeds_make_a_setting_worse_than_any_that_lost_fewer() -> None:
    halving = seeds("ab", 2)
    for point in ("b0", "b1", "a0", "a1"):
        halving.begun(point)
    assert halving.validated("b0", 10, 0.4, 1.0) == {}
    assert halving.validated("b1", 10, 0.4, 1.0) == {}
    assert halving.validated("a0", 10, 0.9, 1.0) == {}
    assert set(halving.ended("a1", diverged=True)) == {"a0"}
    # A loss that is not finite is no number to compare, whoever sends it.
    halving = seeds("ab", 1)
    for point in ("a0", "b0"):
        halving.begun(point)
    assert halving.validated("a0", 10, 0.1, 1.0) == {}
    stopped = halving.validated("b0", 10, 0.9, math.nan)
    assert list(stopped) == ["b0"]
    assert (
        stopped["b0"]
        == "no accuracy (1 of 1 diverged) at step 10: number 2 of the 2 settings there, of which 1 went on"
    )


def test_one_that_failed_keeps_nobody_waiting_and_a_second_try_counts_anew() -> None:
    halving = seeds("ab", 2)
    for point in ("a0", "a1", "b0", "b1"):
        halving.begun(point)
    halving.validated("a0", 10, 0.8, 1.0)
    halving.validated("a1", 10, 0.8, 1.0)
    assert halving.validated("b0", 10, 0.7, 1.0) == {}
    assert set(halving.ended("b1", diverged=False)) == {"b0"}
    halving = seeds("ab", 1)
    halving.begun("a0")
    halving.validated("a0", 10, 0.9, 1.0)
    halving.ended("a0", diverged=False)
    halving.begun("a0")
    halving.begun("b0")
    assert halving.validated("b0", 10, 0.1, 1.0) == {}


def test_a_resumed_sweep_knows_what_was_decided() -> None:
    halving = seeds("abc", 2)
    rows = [(5, 0.1, 2.0), (10, 0.8, 1.0), (30, 0.9, 0.5)]
    for point in ("a0", "a1"):
        halving.recall(point, rows, diverged=False, stopped=None)
    halving.recall("b0", rows[:2], diverged=False, stopped="it was stopped before")
    halving.begun("b1")
    assert halving.validated("b1", 10, 0.99, 0.1) == {"b1": "it was stopped before"}
    halving.begun("c0")
    halving.begun("c1")
    halving.validated("c0", 10, 0.7, 1.0)
    assert set(halving.validated("c1", 10, 0.7, 1.0)) == {"c0", "c1"}


@pytest.mark.parametrize("again", [False, True])
def test_the_same_arrivals_have_the_same_end_and_the_best_is_never_stopped(again: bool) -> None:
    for trial in range(20):
        chance = random.Random(trial)
        quality = {f"s{index}": chance.random() for index in range(12)}
        arrivals = [(f"{s}.{seed}", s, rung) for s in quality for seed in range(3) for rung in (10, 30)]
        order = sorted(arrivals, key=lambda arrival: (chance.random() + arrival[2] / 10, arrival))
        ends = []
        for _ in range(2):
            halving = Halving(3, again)
            for point, setting, _ in arrivals:
                halving.add(point, setting, [10, 30])
            for point, _, rung in arrivals:
                if rung == 10:
                    halving.begun(point)
            stopped: list[str] = []
            for point, setting, rung in order:
                if point not in stopped:
                    for ended in halving.validated(point, rung, quality[setting], 1.0):
                        halving.ended(ended, diverged=False)
                        stopped.append(ended)
            ends.append(stopped)
        assert ends[0] == ends[1]
        best = max(quality, key=lambda setting: quality[setting])
        assert not [point for point in ends[0] if point.startswith(f"{best}.")]
        assert {point.split(".")[0] for point in ends[0]}  # some were
