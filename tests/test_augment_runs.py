"""Augmented runs and experiments, as real processes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from processes import Finished, train


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """A folder of a user's own, with an experiment that chooses augmentations and one of their numbers."""
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "shaken.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /augment: [flip, crop]\naugment:\n  crop:\n    padding: 3\n"
    )
    return folder.parent


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"flip": "horizontal", "crop": 3}),
        (["augment.crop.padding=1"], {"flip": "horizontal", "crop": 1}),
        (["augment=[crop]"], {"crop": 3}),
        (["augment=[crop,translate]"], {"crop": 3, "translate": 0.1}),
    ],
)
def test_an_experiment_lists_and_the_command_line_has_the_last_word(
    overrides: list[str], expected: dict[str, Any], experiments: Path, tmp_path: Path
) -> None:
    found = printed(tmp_path, f"--config-dir={experiments}", "experiment=shaken", *overrides)
    firsts = {name: next(value for key, value in numbers.items() if key != "name") for name, numbers in found.items()}
    assert firsts == expected
    assert list(firsts) == list(expected)


def printed(folder: Path, *arguments: str) -> dict[str, Any]:
    finished = train(folder, *arguments, "--cfg", "job")
    assert finished.status == 0, finished.err
    return dict(yaml.safe_load(finished.out)["augment"])


def test_an_experiments_numbers_without_its_augmentation_say_what_to_do(experiments: Path, tmp_path: Path) -> None:
    finished = train(tmp_path, f"--config-dir={experiments}", "experiment=shaken", "augment=flip")
    assert finished.status == 2
    assert "augment.crop has numbers, and crop is not among the chosen augmentations" in finished.err
    assert "augment=[flip,crop]" in finished.err
    assert "'~augment.crop'" in finished.err


def journal(finished: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished.run / "journal.jsonl").read_text().splitlines()]


def test_a_run_with_augmentations(tmp_path: Path) -> None:
    finished = train(
        tmp_path, "augment=[translate,mixup]", "augment.mixup.alpha=0.4", "tracking=none",
        "trainer.max_epochs=2", "trainer.threads=1",
    )  # fmt: skip
    assert finished.status == 0, finished.err
    assert finished.result["metrics"]["test/accuracy"] > 0.5
    assert (finished.run / "plots" / "augmented.png").read_bytes().startswith(b"\x89PNG")
    (params,) = [record["params"] for record in journal(finished) if "params" in record]
    found = {key: value for key, value in params.items() if key.startswith("augment")}
    assert found == {
        "augment.translate.name": "translate",
        "augment.translate.share": 0.1,
        "augment.translate.border": "black",
        "augment.mixup.name": "mixup",
        "augment.mixup.alpha": 0.4,
        "augment.mixup.probability": 1.0,
    }


@pytest.mark.slow
def test_a_sweep_over_lists_in_float64(tmp_path: Path) -> None:
    finished = train(
        tmp_path, "-m", "augment=none,[jitter,cutmix]", "tracking=none", "trainer.max_epochs=null", "trainer.max_steps=2",
        "trainer.threads=1", "trainer.precision=fp64", "plots=true",
    )  # fmt: skip
    assert finished.status == 0, finished.err
    kept = {}
    for run in (finished.run / "runs").iterdir():
        augment = yaml.safe_load((run / "config.yaml").read_text())["augment"]
        kept[tuple(augment)] = (run / "plots" / "augmented.png").exists()
    assert kept == {(): False, ("jitter", "cutmix"): True}
