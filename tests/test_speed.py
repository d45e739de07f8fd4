"""Which steps a run takes: by its length, by what was measured, by what is remembered, and by what its checkpoint says."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gradlab.speed import CAPTURED, COMPILED, EAGER, Memory, Paces, Speed, Work, choose, decide

SMALL = Work(layers=5, multiply_adds=800_000, convolutions=False)  # digits, MLP
WIDE = Work(layers=5, multiply_adds=7_600_000, convolutions=False)  # MNIST, MLP
RESNET = Work(layers=40, multiply_adds=24_000_000_000, convolutions=True)
LENET = Work(layers=12, multiply_adds=27_000_000, convolutions=True)


@dataclass
class Rehearsal:
    """Answers as a machine would on which these steps take so long, and notes what it was asked."""

    eager_step: float = 0.7e-3
    compiling: float = 7.0
    compiled_step: float = 0.23e-3
    obstacle: str | None = None
    captured_step: float | str = 0.1e-3
    asked: list[str] = field(default_factory=list)

    def eager(self) -> float | str:
        self.asked.append("eager")
        return self.eager_step

    def captured(self) -> float | str:
        self.asked.append("captured")
        return self.captured_step

    def compiled(self, timed: bool = True) -> tuple[float, float] | str:
        self.asked.append("compiled")
        return self.obstacle or (self.compiling, self.compiled_step)


def chosen(
    folder: Path, rehearsal: Rehearsal, steps: int, asked: str = "auto", kept: str | None = None, work: Work = SMALL
) -> Speed:
    rehearsal.asked.clear()
    machine: Any = rehearsal
    return choose(asked, kept, steps, work, lambda: machine, Memory("network", 1, "cpu", folder))


def test_a_run_that_is_over_before_a_compilation_would_be_asks_nothing(tmp_path: Path) -> None:
    rehearsal = Rehearsal()
    speed = chosen(tmp_path, rehearsal, 820)
    assert speed == Speed(EAGER, "eager steps: all 820 are over before a compilation would be")
    assert rehearsal.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_is_compiled_and_says_for_what(tmp_path: Path) -> None:
    speed = chosen(tmp_path, Rehearsal(), 60_000)
    assert speed.steps == COMPILED
    assert speed.line == (
        "compiled steps: compiled 0.23 ms against 0.7 ms, 60,000 steps save 28 s for 7 s of compiling"
    )


def test_the_same_command_makes_the_same_choice_whatever_is_measured_then(tmp_path: Path) -> None:
    first = chosen(tmp_path, Rehearsal(), 60_000)
    busy = Rehearsal(eager_step=0.2e-3, compiled_step=0.9e-3)
    again = chosen(tmp_path, busy, 60_000)
    assert (first.steps, again.steps) == (COMPILED, COMPILED)
    assert again.line == f"{first.line} (remembered)"
    assert busy.asked == ["compiled"]  # which it has to be, to be used


def test_a_run_of_middling_length_stays_eager_and_is_not_asked_twice(tmp_path: Path) -> None:
    speed = chosen(tmp_path, Rehearsal(), 8_000)
    assert speed.steps == EAGER
    assert speed.line == (
        "eager steps: compiled about 0.175 ms against 0.7 ms, 8,000 steps save about 4 s for about 12 s of compiling"
    )
    rehearsal = Rehearsal()
    assert chosen(tmp_path, rehearsal, 8_000).line == f"{speed.line} (remembered)"
    assert rehearsal.asked == []


def test_a_choice_outlives_what_a_longer_run_measures_later(tmp_path: Path) -> None:
    assert chosen(tmp_path, Rehearsal(), 20_000).steps == EAGER
    quick = Rehearsal(compiling=4.0)
    assert chosen(tmp_path, quick, 100_000).steps == COMPILED
    assert chosen(tmp_path, quick, 20_000).steps == EAGER  # though 4 s would pay for it
    assert chosen(tmp_path, quick, 20_001).steps == COMPILED


def test_what_came_out_slower_is_not_used(tmp_path: Path) -> None:
    slower = Rehearsal(compiled_step=0.8e-3)
    speed = chosen(tmp_path, slower, 60_000)
    assert speed == Speed(EAGER, "eager steps: compiled 0.8 ms against 0.7 ms")
    assert chosen(tmp_path, slower, 60_000).steps == EAGER
    assert slower.asked == []
    assert chosen(tmp_path, slower, 900_000).steps == EAGER
    assert slower.asked == []  # it is known by now


def test_what_cannot_be_compiled_is_eager_and_says_why(tmp_path: Path) -> None:
    sam = Rehearsal(obstacle="wrapper=sam makes two passes")
    for asked in ("max", "auto"):
        assert chosen(tmp_path, sam, 60_000, asked) == Speed(EAGER, "eager steps: wrapper=sam makes two passes")
    again = chosen(tmp_path, sam, 60_000)
    assert again.line == "eager steps: wrapper=sam makes two passes (remembered; trainer.speed=max tries again)"
    assert sam.asked == []


@pytest.mark.parametrize(
    ("asked", "kept", "steps", "expected"),
    [
        ("safe", None, 10**9, EAGER),
        ("safe", COMPILED, 10**9, EAGER),
        ("max", None, 1, COMPILED),
        ("max", EAGER, 1, COMPILED),
        ("auto", COMPILED, 1, COMPILED),
        ("auto", EAGER, 10**9, EAGER),
    ],
)
def test_what_is_asked_for_counts_before_the_checkpoint_and_that_before_any_measurement(
    tmp_path: Path, asked: str, kept: str | None, steps: int, expected: str
) -> None:
    rehearsal = Rehearsal(compiled_step=1.0)
    assert chosen(tmp_path, rehearsal, steps, asked, kept).steps == expected
    assert "eager" not in rehearsal.asked
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "eager", "work", "expected"),
    [
        (30_000, 0.7e-3, SMALL, COMPILED),  # three quarters of 21 s, for about 12
        (20_000, 0.7e-3, SMALL, EAGER),  # three quarters of 14 s are less than that
        (20_000, 1.2e-3, WIDE, EAGER),  # of 24 s more than half would be left
        (30_000, 1.2e-3, WIDE, COMPILED),
        (10_000, 5e-3, LENET, EAGER),  # a fifth of 50 s
        (30_000, 5e-3, LENET, COMPILED),  # a fifth of 150 s
        (300, 1.5, RESNET, EAGER),  # all of it is arithmetic
        (3_000, 0.2, LENET, COMPILED),  # ten minutes: trying costs little, whatever comes of it
    ],
)
def test_decisions_before_anything_was_compiled(steps: int, eager: float, work: Work, expected: str) -> None:
    assert decide(steps, Paces(eager=eager), work) == expected


def test_a_damaged_memory_is_measured_anew(tmp_path: Path) -> None:
    memory = Memory("network", 1, "cpu", tmp_path)
    memory.keep(Paces(eager=1.0))
    assert memory.recall() == Paces(eager=1.0)
    memory.file.write_text('{"eager": ')
    assert memory.recall() == Paces()
    assert Memory("network", 2, "cpu", tmp_path).file != memory.file


def on_a_gpu(folder: Path, rehearsal: Rehearsal, steps: int, kept: str | None = None) -> Speed:
    rehearsal.asked.clear()
    machine: Any = rehearsal
    return choose("auto", kept, steps, LENET, lambda: machine, Memory("network", 1, "gpu", folder), captures=True)


def test_on_a_gpu_a_run_of_some_length_is_captured_and_a_long_one_compiled(tmp_path: Path) -> None:
    rehearsal = Rehearsal(compiled_step=0.05e-3)
    assert on_a_gpu(tmp_path, rehearsal, 20).steps == EAGER
    assert on_a_gpu(tmp_path, rehearsal, 800).steps == CAPTURED
    assert rehearsal.asked == ["captured"]
    assert on_a_gpu(tmp_path, rehearsal, 800) == Speed(
        CAPTURED,
        "captured steps: compiled about 0.07 ms against 0.1 ms, 800 steps save about 0 s for about 16 s of compiling (remembered)",
    )
    assert rehearsal.asked == []
    assert on_a_gpu(tmp_path, rehearsal, 3_000_000).steps == COMPILED


def test_on_a_gpu_what_cannot_be_captured_is_chosen_as_on_a_cpu(tmp_path: Path) -> None:
    rehearsal = Rehearsal(captured_step="it waits for the GPU")
    speed = on_a_gpu(tmp_path, rehearsal, 800)
    assert speed.steps == EAGER
    assert rehearsal.asked == ["captured", "eager"]
    assert on_a_gpu(tmp_path, rehearsal, 3_000_000).steps == COMPILED


def test_a_captured_run_is_gone_on_with_as_one_where_that_can_be(tmp_path: Path) -> None:
    rehearsal = Rehearsal()
    for asked in (["captured"], []):  # remembered
        assert on_a_gpu(tmp_path, rehearsal, 800, kept=CAPTURED).steps == CAPTURED
        assert rehearsal.asked == asked
    assert on_a_gpu(tmp_path, rehearsal, 800, kept=EAGER).steps == EAGER
    for _ in range(2):  # it is not remembered as one that can be captured
        elsewhere = on_a_gpu(tmp_path / "elsewhere", Rehearsal(captured_step="there is no GPU"), 800, kept=CAPTURED)
        assert elsewhere == Speed(EAGER, "eager steps: there is no GPU")


def test_on_a_gpu_a_short_run_is_eager_whatever_is_remembered(tmp_path: Path) -> None:
    rehearsal = Rehearsal()
    assert on_a_gpu(tmp_path, rehearsal, 800).steps == CAPTURED
    assert on_a_gpu(tmp_path, rehearsal, 20).steps == EAGER
    assert rehearsal.asked == []


def test_convolutions_of_our_own_make_a_shorter_run_worth_compiling() -> None:
    ours = dataclasses.replace(LENET, ours=1.0)
    paces = Paces(eager=10e-3)  # compiled 8 ms, or 6 ms; compiling takes 16.4 s
    assert [decide(5_000, paces, work) for work in (LENET, ours)] == [EAGER, COMPILED]
    assert decide(9_000, paces, LENET) == COMPILED
