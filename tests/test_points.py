"""Points in a plane: drawn as scikit-learn draws them, trained on as images are, and shown with the network's answers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from gradlab.analysis.boundary import decision_boundary, probabilities
from gradlab.config import build_config
from gradlab.data.datasets.points import Circles, Moons
from gradlab.data.device import Normalization, Preparation
from gradlab.errors import ConfigError, FieldError
from processes import train

NUMBERS: dict[str, Any] = {
    "batch_size": 32, "val_fraction": 0.1, "split_seed": 0, "class_weights": "none", "normalization": "standard",
    "examples": 200, "noise": 0.1, "points_seed": 0, "test_fraction": 0.2,
}  # fmt: skip


def moons(**changes: Any) -> Moons:
    return Moons("moons", **(NUMBERS | changes))


def circles(**changes: Any) -> Circles:
    return Circles("circles", **(NUMBERS | {"factor": 0.5} | changes))


@pytest.mark.parametrize("examples", [8, 101, 500])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_points_are_scikit_learns(examples: int, noise: float, seed: int) -> None:
    from sklearn.datasets import make_circles, make_moons

    numbers = {"examples": examples, "noise": noise, "points_seed": seed}
    for ours, (points, labels) in (
        (moons(**numbers), make_moons(examples, noise=noise, random_state=seed)),
        (circles(**numbers, factor=0.3), make_circles(examples, noise=noise, random_state=seed, factor=0.3)),
    ):
        drawn, drawn_labels = ours.draw()
        assert np.array_equal(drawn, points)
        assert np.array_equal(drawn_labels, labels)


@pytest.mark.parametrize("chosen", [moons(), circles()])
def test_points_are_images_of_two_numbers(chosen: Moons | Circles) -> None:
    splits, spec = chosen.load(), chosen.spec()
    assert spec.planar
    assert spec.image_shape == (2, 1, 1)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [144, 16, 40]
    assert spec.train_examples == 144
    for part in (splits.train, splits.val, splits.test):
        assert part.images.shape == (len(part), 2, 1, 1)
        assert (part.images.dtype.name, part.labels.dtype.name) == ("float32", "int64")
        assert set(part.labels.tolist()) == {0, 1}
    everything = np.concatenate([part.images for part in (splits.train, splits.val, splits.test)]).reshape(-1, 2)
    drawn = chosen.draw()[0].astype(np.float32)
    assert sorted(map(tuple, everything.tolist())) == sorted(map(tuple, drawn.tolist()))


def test_the_classes_are_what_they_are_called() -> None:
    points, labels = circles(noise=0.0).draw()
    assert circles().classes()[0] == "outer circle"
    np.testing.assert_allclose(np.hypot(*points[labels == 0].T), 1)
    np.testing.assert_allclose(np.hypot(*points[labels == 1].T), 0.5)
    points, labels = moons(noise=0.0).draw()
    assert moons().classes()[0] == "upper moon"
    assert points[labels == 0][:, 1].min() > -1e-9
    assert points[labels == 1][:, 1].max() < 0.5 + 1e-9


def test_the_points_depend_on_their_seed_and_the_split_on_its_own() -> None:
    one = moons().load()
    assert one.fingerprint == moons(split_seed=1, batch_size=7).load().fingerprint
    assert not np.array_equal(one.test.images, moons(split_seed=1).load().test.images)
    assert one.fingerprint != moons(points_seed=1).load().fingerprint


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"examples": 7}, "examples"),
        ({"noise": -0.1}, "noise"),
        ({"noise": math.inf}, "noise"),
        ({"points_seed": -1}, "points_seed"),
        ({"points_seed": 2**32}, "points_seed"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": 0.999}, "test_fraction"),
        ({"factor": 1.0}, "factor"),
        ({"factor": -0.1}, "factor"),
    ],
)
def test_a_wrong_number_is_refused_by_its_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        circles(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize("model", ["lenet", "cnn", "resnet"])
def test_a_model_for_images_does_not_take_points(model: str, compose: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(compose("data=moons", f"model={model}"))
    assert str(caught.value) == f"model={model} needs images, and data=moons has points. Choose model=mlp."


def test_a_run_on_circles_is_right_and_drawn(tmp_path: Path) -> None:
    finished = train(tmp_path, "data=circles", "model=mlp", "tracking=none")
    assert finished.status == 0, finished.err
    assert "circles: 1,440 training, 160 validation and 400 test points" in finished.out
    assert finished.result["metrics"]["test/accuracy"] >= 0.99
    assert finished.result["class_counts"]["test"] == {"outer circle": 200, "inner circle": 200}
    drawn = {file.name for file in (finished.run / "plots").iterdir()}
    assert "decision_boundary.png" in drawn
    assert "mistakes.png" not in drawn
    assert (finished.run / "plots" / "decision_boundary.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((finished.run / "result.json").read_text())["status"] == "finished"


class OneLine:
    """As a classifier: the second class where the first coordinate, normalised, is above 0."""

    def __init__(self) -> None:
        linear = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([[-5.0, 0.0], [5.0, 0.0]]))
        self.model = torch.nn.Sequential(torch.nn.Flatten(), linear)


def test_the_probabilities_in_the_picture_are_the_networks() -> None:
    splits, classifier = moons().load(), OneLine()
    points = np.array([[0.3, 1.0], [-1.0, 0.5], [2.0, -0.5]])
    normalization = Normalization.of(splits.train)
    preparation = Preparation(normalization, torch.device("cpu"), torch.float32)
    found = probabilities(classifier.model, preparation, points)
    x = (points[:, 0] - normalization.mean[0].item()) / normalization.std[0].item()
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-10 * x)), rtol=1e-5)


def test_the_picture_marks_exactly_the_wrong_test_points() -> None:
    splits, classifier = moons().load(), OneLine()
    normalization = Normalization.of(splits.train)
    figure = decision_boundary(classifier.model, splits, ("upper moon", "lower moon"), normalization)
    axes = figure.axes[0]
    middle = splits.train.images[:, 0].astype(np.float64).mean()
    wrong = (splits.test.images[:, 0, 0, 0] > middle) != (splits.test.labels == 1)
    crosses = axes.collections[-1].get_offsets()
    assert np.allclose(np.sort(np.asarray(crosses), 0), np.sort(splits.test.images[wrong].reshape(-1, 2), 0))
    assert axes.get_title() == f"{40 - wrong.sum()} of 40 test points right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first coordinate", "second coordinate")
    offsets = [np.asarray(part.get_offsets()) for part in axes.collections]
    assert sum(len(points) for points in offsets if len(points) > 1) == 144 + 40 + wrong.sum()


def test_a_network_that_says_one_class_everywhere_can_be_drawn() -> None:
    classifier = OneLine()
    with torch.no_grad():
        next(classifier.model.parameters()).zero_()
    splits = circles().load()
    as_they_are = Normalization.none(splits.train)
    decision_boundary(classifier.model, splits, circles().classes(), as_they_are).canvas.draw()
