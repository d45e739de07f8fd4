import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from gradlab.config import AXES, LISTED
from gradlab.errors import ConfigError
from gradlab.registry import Registry

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def files(axis: str) -> list[str]:
    """The choices of an axis that have a file. That of no augmentation chooses nothing."""
    names = sorted(file.stem for file in (CONFIGS / axis).glob("*.yaml"))
    return [name for name in names if (axis, name) != (LISTED, "none")]


CHOICES = [(axis, choice) for axis in AXES for choice in files(axis)]


@pytest.mark.parametrize("axis", AXES)
def test_every_choice_has_a_file_and_every_file_a_choice(axis: str) -> None:
    assert sorted(AXES[axis]) == files(axis)
    assert len(AXES[axis]) == len(list(AXES[axis])) > 0


def test_every_folder_of_choices_is_an_axis() -> None:
    folders = {folder.name for folder in CONFIGS.iterdir() if folder.is_dir()}
    assert folders - {"experiment", "hydra"} == set(AXES)


def test_every_axis_has_a_default(compose: Callable[..., DictConfig]) -> None:
    assert set(AXES) <= set(compose())


@pytest.mark.parametrize(("axis", "choice"), CHOICES)
def test_a_file_holds_its_name_and_the_fields_of_its_dataclass(
    axis: str, choice: str, compose: Callable[..., DictConfig]
) -> None:
    values = compose(f"{axis}={choice}")[axis]
    if axis == LISTED:
        assert list(values) == [choice]
        values = values[choice]
    assert values.name == choice
    assert set(values) == {field.name for field in dataclasses.fields(AXES[axis][choice])}


@pytest.mark.parametrize(("axis", "choice"), CHOICES)
def test_the_numbers_are_in_the_file_only(axis: str, choice: str) -> None:
    for field in dataclasses.fields(AXES[axis][choice]):
        assert field.default is dataclasses.MISSING
        assert field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize(("axis", "choice"), CHOICES)
def test_the_docstring_explains_every_field(axis: str, choice: str) -> None:
    entry = AXES[axis][choice]
    documented: set[str] = set()
    for names in re.findall(r"^ +([a-z_]+(?:, [a-z_]+)*): ", entry.__doc__ or "", re.MULTILINE):
        documented.update(names.split(", "))
    missing = {field.name for field in dataclasses.fields(entry)} - {"name"} - documented
    assert not missing, f"{entry.__name__} does not explain {missing}"


@pytest.mark.parametrize("axis", AXES)
def test_an_unknown_name_is_answered_with_the_nearest_and_all_choices(axis: str) -> None:
    for choice in AXES[axis]:
        with pytest.raises(ConfigError) as caught:
            AXES[axis][f"{choice}_"]
        message = str(caught.value)
        assert f"There is no {axis} '{choice}_'." in message
        assert f"Did you mean '{choice}'?" in message
        assert f"Choices: {', '.join(sorted(AXES[axis]))}." in message


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        AXES["optimizer"]["qqqqqqqq"]
    assert "Did you mean" not in str(caught.value)


def fruits() -> Registry[Any]:
    registry: Registry[Any] = Registry("fruit")

    @registry.register("apple", "pomme")
    @dataclass(frozen=True)
    class Apple:
        name: str

    return registry


def test_one_class_may_have_several_names() -> None:
    registry = fruits()
    assert list(registry) == ["apple", "pomme"]
    assert registry["apple"] is registry["pomme"]


def test_a_second_class_under_a_taken_name_is_refused() -> None:
    registry = fruits()
    before = registry["apple"]

    class Pear:
        pass

    with pytest.raises(ValueError, match="fruit 'apple' is registered already"):
        registry.register("apple")(Pear)
    assert registry["apple"] is before


def test_the_same_class_may_be_registered_again() -> None:
    """As happens when its module is reloaded."""
    registry = fruits()
    again = type("Apple", (), {})
    again.__qualname__, again.__module__ = registry["apple"].__qualname__, registry["apple"].__module__
    registry.register("apple")(again)
    assert registry["apple"] is again


def test_a_class_of_the_same_name_from_another_module_is_refused() -> None:
    registry = fruits()
    other = type("Apple", (), {"__module__": "users_own", "__qualname__": registry["apple"].__qualname__})
    with pytest.raises(ValueError, match="registered already"):
        registry.register("apple")(other)
