"""How many images of each class there are, and what balanced weights make of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from gradlab.config import build_config
from gradlab.data.balance import ClassBalance, balanced_weights
from gradlab.data.datasets.base import Examples, Splits
from gradlab.errors import DataError
from gradlab.prepare import prepare
from gradlab.tracking.journal import Journal
from processes import train


def examples(*counts: int) -> Examples:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return Examples(np.zeros((len(labels), 1, 8, 8), np.uint8), labels)


def splits(*counts: int) -> Splits:
    return Splits(examples(*counts), examples(*[1] * len(counts)), examples(2, 3), "")


NAMES = ("cat", "dog", "wolf")


def test_counts_are_by_split_and_class() -> None:
    assert ClassBalance.of(splits(7, 5, 2), NAMES).counts() == {
        "train": {"cat": 7, "dog": 5, "wolf": 2},
        "val": {"cat": 1, "dog": 1, "wolf": 1},
        "test": {"cat": 2, "dog": 3, "wolf": 0},
    }


@pytest.mark.parametrize(
    ("counts", "ratio", "notice"),
    [
        ((3, 3, 3), 1.0, None),
        ((149, 120, 100), 1.49, None),
        ((100, 150, 120), 1.5, "imbalanced classes: 150 training images of 'dog' and 100 of 'cat'"),
        ((1200, 3, 7), 400.0, "imbalanced classes: 1,200 training images of 'cat' and 3 of 'dog'"),
        ((5, 4), float("inf"), "imbalanced classes: 5 training images of 'cat' and 0 of 'wolf'"),
    ],
)
def test_imbalance_is_said_from_one_and_a_half(counts: tuple[int, ...], ratio: float, notice: str | None) -> None:
    balance = ClassBalance.of(splits(*counts), NAMES)
    assert balance.ratio == pytest.approx(ratio)
    assert balance.notice() == notice


@pytest.mark.parametrize("counts", [(3, 3, 3), (7, 5, 2), (1000, 1, 17), (4,)])
def test_balanced_weights_are_scikit_learns(counts: tuple[int, ...]) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    train_set = examples(*counts)
    names = tuple(map(str, range(len(counts))))
    theirs = compute_class_weight("balanced", classes=np.arange(len(counts)), y=train_set.labels)
    np.testing.assert_allclose(balanced_weights(train_set, names), theirs, rtol=1e-15)


def test_a_class_without_images_to_train_on_cannot_be_weighed() -> None:
    with pytest.raises(DataError) as caught:
        balanced_weights(examples(3, 0, 2), (*NAMES, "yak"))
    for part in ("2 of 4 classes have no training image", "'dog'", "data.class_weights=none"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp64", torch.float64)])
def test_the_weights_reach_the_loss(
    compose: Callable[..., DictConfig], tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    def weights(*overrides: str) -> Any:
        config = build_config(compose("trainer=cpu", f"trainer.precision={precision}", *overrides))
        loaded = config.data.load()
        journal = Journal(tmp_path / "journal.jsonl")
        (learner,) = prepare([config], loaded, [journal]).learners
        journal.close()
        return loaded, learner.class_weights

    _, none = weights()
    assert none is None
    loaded, balanced = weights("data.class_weights=balanced")
    assert balanced.dtype == dtype
    np.testing.assert_allclose(balanced, balanced_weights(loaded.train, tuple("0123456789")), rtol=1e-6)


def test_a_weighted_run_in_double_precision_ends_and_is_drawn(tmp_path: Path) -> None:
    """On points, which are floats too."""
    arguments = ("data=moons", "tracking=none", "trainer=cpu", "trainer.precision=fp64", "trainer.max_epochs=1")
    finished = train(tmp_path, *arguments, "data.class_weights=balanced")
    assert finished.status == 0, finished.err
    assert "imbalanced" not in finished.out  # these classes are not
    assert finished.result["class_counts"]["train"] == {"upper moon": 720, "lower moon": 720}
    assert '"gradlab.class_imbalance":"1"' in (finished.run / "journal.jsonl").read_text()
    assert (finished.run / "plots" / "decision_boundary.png").exists()
