from dataclasses import dataclass

import pytest

from gradlab.durations import Duration, Horizon, duration_of, parse_duration
from gradlab.errors import FieldError

RUN = Horizon(total_steps=1000, steps_per_epoch=100)


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("500 steps", 500, "steps"),
        ("1 step", 1, "steps"),
        ("500steps", 500, "steps"),
        ("500 STEPS", 500, "steps"),
        ("1e3 steps", 1000, "steps"),
        ("1E+3 steps", 1000, "steps"),
        ("2 epochs", 2, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("2epochs", 2, "epochs"),
        (".5 epochs", 0.5, "epochs"),
        ("5%", 5, "percent"),
        ("5 %", 5, "percent"),
        ("  5 percent  ", 5, "percent"),
        ("2.5%", 2.5, "percent"),
        ("1e-1%", 0.1, "percent"),
        ("10 minutes", 10, "minutes"),
        ("1 minute", 1, "minutes"),
        ("0", 0, "steps"),
        ("0.0", 0, "steps"),
        ("0 epochs", 0, "epochs"),
        ("0%", 0, "percent"),
    ],
)
def test_a_length_is_a_number_and_a_unit(text: str, number: float, unit: str) -> None:
    assert parse_duration(text) == Duration(number, unit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a length: ''"),
        ("steps", "is not a length"),
        ("%", "is not a length"),
        ("five steps", "is not a length"),
        ("None", "is not a length"),
        ("-5 steps", "is not a length"),
        ("+5 steps", "is not a length"),
        ("nan%", "is not a length"),
        ("inf steps", "is not a length"),
        (".", "is not a length"),
        ("1.2.3 steps", "is not a length"),
        ("1_000 steps", "is not a length"),
        ("1,000 steps", "is not a length"),
        ("1e steps", "is not a length"),
        ("2 epochs 3 steps", "is not a length"),
        ("5", "has no unit: '5'"),
        ("5.5", "has no unit"),
        ("1e5", "has no unit"),
        ("5 furlongs", "has an unknown unit: '5 furlongs'"),
        ("5%%", "has an unknown unit"),
        ("0 furlongs", "has an unknown unit"),
        ("5 e", "has an unknown unit"),
        ("1e400 steps", "is not a length"),
    ],
)
def test_anything_else_is_refused_with_an_example_of_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"Write it like '.* steps', '.* epochs' or '5%'") as caught:
        parse_duration(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("0", 0),
        ("0%", 0),
        ("1 step", 1),
        ("500 steps", 500),
        ("5000 steps", 5000),
        ("2 epochs", 200),
        ("0.5 epochs", 50),
        ("5%", 50),
        ("100%", 1000),
        ("0.2%", 2),
        ("0.25%", 3),  # 2.5
        ("1.5 steps", 2),
        ("1.4 steps", 1),
        ("0.1 steps", 1),  # never 0 unless 0 is meant
        ("0.001%", 1),
        ("0.001 epochs", 1),
    ],
)
def test_a_length_in_steps_is_rounded_and_at_least_one(text: str, steps: int) -> None:
    assert parse_duration(text).steps(RUN) == steps


def test_every_percentage_is_within_half_a_step() -> None:
    for total in range(1, 150):
        for percent in range(1, 101):
            steps = parse_duration(f"{percent}%").steps(Horizon(total, 10))
            assert steps == 1 or abs(steps - percent * total / 100) <= 0.5 + 1e-9


def test_minutes_have_no_length_in_steps() -> None:
    with pytest.raises(ValueError, match="minutes"):
        parse_duration("10 minutes").steps(RUN)


def test_a_run_may_end_inside_an_epoch() -> None:
    assert Horizon(total_steps=250, steps_per_epoch=100).epochs == 2.5


@pytest.mark.parametrize("text", ["500 steps", "2 epochs", "5%", "2.5%", "10 minutes", "0 steps"])
def test_a_length_is_shown_as_it_is_read(text: str) -> None:
    assert str(parse_duration(text)) == text


@dataclass
class Owner:
    every: str


def test_duration_of_takes_what_the_field_may_hold() -> None:
    assert duration_of(Owner("100%"), "every") == Duration(100, "percent")
    assert duration_of(Owner("10 minutes"), "every", units=("minutes",)) == Duration(10, "minutes")
    assert duration_of(Owner("0"), "every", units=("minutes",)).number == 0


@pytest.mark.parametrize(
    ("text", "units", "says"),
    [
        ("five", ("steps",), "every is not a length: 'five'"),
        ("5", ("steps",), "every has no unit: '5'"),
        ("10 minutes", ("steps", "epochs"), "every must be given in steps or epochs, not in minutes"),
        ("5 steps", ("minutes",), "every must be given in minutes, not in steps"),
        ("101%", ("percent",), "every must be at most 100%, not 101%"),
    ],
)
def test_duration_of_names_the_field(text: str, units: tuple[str, ...], says: str) -> None:
    with pytest.raises(FieldError) as caught:
        duration_of(Owner(text), "every", units=units)
    assert caught.value.field == "every"
    assert str(caught.value).startswith(says)


def test_the_example_has_a_unit_that_the_field_takes() -> None:
    with pytest.raises(FieldError) as caught:
        duration_of(Owner("5"), "every", units=("minutes",))
    assert "'5 minutes'" in str(caught.value)
    assert "steps" not in str(caught.value)
