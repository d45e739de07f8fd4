"""``gradlab evaluate`` and what it shares with ``gradlab predict``, on a run trained by a real process."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlab.checkpoints import load_checkpoint, save_checkpoint
from gradlab.cli import main
from gradlab.errors import CheckpointError, ConfigError, GradlabError
from gradlab.trained.evaluate import answer, dataset_of, measures, parts_of, wilson
from gradlab.trained.find import find_run
from gradlab.trained.network import Trained, open_trained
from processes import Finished, gradlab, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three epochs on the digits, in MLflow too."""
    done = train(tmp_path_factory.mktemp("trained"), "trainer.max_epochs=3", "plots=false")
    assert done.status == 0, done.err
    return done


@pytest.fixture(scope="module")
def checkpoint(finished: Finished) -> Path:
    return finished.run / "checkpoints" / "best"


@pytest.fixture(scope="module")
def trained(checkpoint: Path) -> Trained:
    return open_trained(checkpoint, "cpu", [])


# ----------------------------------------------------------------------- finding


def test_a_run_is_found_by_folder_checkpoint_latest_best_and_id(finished: Finished, checkpoint: Path) -> None:
    outputs, store = finished.folder / "outputs", f"sqlite:///{finished.folder}/mlflow.db"
    names = [str(finished.run), str(checkpoint), "latest", "best", finished.result["mlflow_run_id"]]
    for name in names:
        assert find_run(name, outputs, store).checkpoint == checkpoint, name


def test_an_id_whose_folder_is_gone_is_had_from_mlflow(finished: Finished, tmp_path: Path) -> None:
    run, away = finished.run, finished.folder / "away"
    run_id = finished.result["mlflow_run_id"]
    run.rename(away)
    try:
        found = find_run(run_id, tmp_path, f"sqlite:///{finished.folder}/mlflow.db")
    finally:
        away.rename(run)
    assert open_trained(found.checkpoint, "cpu", []).spec.name == "digits"


def test_latest_and_best_choose(finished: Finished, tmp_path: Path) -> None:
    for name, accuracy in (
        ("2026-01-01_00-00-01_b", 0.9),
        ("2026-01-01_00-00-02_a", 0.8),
        ("2026-01-01_00-00-00_c", 0.7),
    ):
        shutil.copytree(finished.run, tmp_path / name)
        result = {"status": "finished", "metrics": {"best/val_accuracy": accuracy}}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    assert find_run("latest", tmp_path, None).checkpoint.parents[1].name == "2026-01-01_00-00-02_a"
    assert find_run("best", tmp_path, None).checkpoint.parents[1].name == "2026-01-01_00-00-01_b"
    assert "the best of 3 finished runs with 90.00% on validation" in find_run("best", tmp_path, None).said


@pytest.mark.parametrize("name", ["latest", "best"])
def test_without_runs_there_is_neither_latest_nor_best(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trained run"):
        find_run(name, tmp_path, None)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no run 'nope'"):
        find_run("nope", tmp_path, None)
    with pytest.raises(ConfigError, match="no checkpoints/best"):
        find_run(str(tmp_path), tmp_path, None)
    with pytest.raises(GradlabError, match="cannot be had"):
        find_run("0" * 32, tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


# ----------------------------------------------------------------------- opening


def test_the_network_answers_as_in_its_test(finished: Finished, trained: Trained) -> None:
    splits = dataset_of(trained, []).load()
    found = measures(answer(trained, splits.test), torch.from_numpy(splits.test.labels), trained.spec.classes)
    assert found["accuracy"] == finished.result["metrics"]["test/accuracy"]
    assert found["loss"] == pytest.approx(finished.result["metrics"]["test/loss"], rel=1e-5)


def altered(checkpoint: Path, into: Path, **changes: object) -> Path:
    """A copy of a checkpoint whose state says something else."""
    tensors, state = load_checkpoint(checkpoint)
    save_checkpoint(
        into, tensors, {key: value for key, value in {**state, **changes}.items() if key != "tensors_sha256"}
    )
    return into


def test_a_checkpoint_without_its_images_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not say what images it takes"):
        open_trained(altered(checkpoint, tmp_path / "old", images=None), "cpu", [])


def test_weights_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path, trained: Trained) -> None:
    config = {**trained.config, "model": {**trained.config["model"], "hidden": [64]}}
    with pytest.raises(CheckpointError, match="do not fit model=mlp"):
        open_trained(altered(checkpoint, tmp_path / "other", config=config), "cpu", [])


def test_opening_imports_nothing_that_a_checkpoint_names(checkpoint: Path, tmp_path: Path, trained: Trained) -> None:
    config = {**trained.config, "model": {"name": "theirs"}, "imports": ["their_models"]}
    with pytest.raises(ConfigError, match=r"Where you trust that code.*--imports their_models"):
        open_trained(altered(checkpoint, tmp_path / "theirs", config=config), "cpu", [])


# -------------------------------------------------------------------- evaluating


def test_all_is_every_image_once(trained: Trained) -> None:
    splits = dataset_of(trained, []).load()
    assert sum(len(examples) for examples in parts_of(splits, "all")) == 1797
    assert parts_of(splits, "val") == [splits.val]


def test_measures_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
    found = measures(logits, torch.tensor([0, 0, 1, 0]), ("a", "b", "c"))
    assert (found["images"], found["correct"], found["accuracy"]) == (4, 3, 0.75)
    assert found["classes"] == [
        {"class": "a", "images": 3, "recall": 2 / 3, "precision": 1.0},
        {"class": "b", "images": 1, "recall": 1.0, "precision": 0.5},
        {"class": "c", "images": 0, "recall": None, "precision": None},
    ]
    low = torch.logsumexp(torch.tensor([2.0, 0, 0]), 0).item()
    assert found["loss"] == pytest.approx(low - 1.5)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (9, 10, 0.5958, 0.9821)],
)
def test_wilson_interval(right: int, images: int, low: float, high: float) -> None:
    """Against R's binom.confint(method='wilson'), four digits."""
    assert wilson(right, images) == pytest.approx([low, high], abs=5e-5)


@dataclass(frozen=True)
class Told:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Command":
    """The gradlab command in the folder of the run, in this process: a process of its own imports torch each time."""
    monkeypatch.chdir(finished.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str) -> Told:
        status = main([*arguments])
        said = capsys.readouterr()
        return Told(status, said.out, said.err)

    return run


Command = Callable[..., Told]


def test_evaluate_in_a_process(finished: Finished) -> None:
    told = gradlab(finished.folder, "evaluate", "latest")
    assert told.status == 0, told.err
    assert f"{finished.result['metrics']['test/accuracy']:.2%}" in told.out
    assert "359 images" in told.out


def test_evaluate_for_programs(finished: Finished, command: Command) -> None:
    report = json.loads(command("evaluate", "best", "--format", "json").out)
    assert report["accuracy"] == finished.result["metrics"]["test/accuracy"]
    assert report["note"] is None
    rows = list(csv.DictReader(io.StringIO(command("evaluate", "best", "--format", "csv").out)))
    assert [row["class"] for row in rows] == list("0123456789")
    assert sum(int(row["images"]) for row in rows) == 359


def test_evaluate_warns_of_images_that_were_trained_on(command: Command) -> None:
    told = command("evaluate", "latest", "data.split_seed=1", "--split", "test")
    assert told.status == 0, told.err
    assert "data.split_seed is not that of the run" in told.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nope"], "There is no run 'nope'"),
        (["latest", "optimizer=adam"], "is no override of the data"),
        (["latest", "data.nope=1"], "data=digits has no key 'nope'"),
        (["latest", "data=nope"], "nope"),
        (["latest", "data.val_fraction=2"], "data.val_fraction must be"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], expected: str, command: Command) -> None:
    told = command("evaluate", *arguments)
    assert told.status == 2
    assert told.err.count("\n") == 1
    assert expected in told.err
    assert told.out == ""


# -------------------------------------------------------------------- predicting


@pytest.fixture
def pictures(tmp_path: Path, trained: Trained) -> Path:
    """The first twelve test images as PNG files, each with its true class in its name; and what is no picture."""
    test = dataset_of(trained, []).load().test
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for number in range(12):
        where = folder / "deeper" if number % 2 else folder
        Image.fromarray(test.images[number, 0]).save(where / f"{number:02}_{test.labels[number]}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_predict_says_what_the_network_said_of_the_same_images(
    pictures: Path, trained: Trained, command: Command
) -> None:
    told = command("predict", "latest", str(pictures), "--format", "json", "--top", "3")
    assert told.status == 0, told.err
    answers = json.loads(told.out)
    assert len(answers) == 12
    test = dataset_of(trained, []).load().test
    expected = answer(trained, test.take(np.arange(12))).softmax(1)
    for entry in answers:
        number = int(Path(entry["path"]).name[:2])
        found = {one["class"]: one["probability"] for one in entry["classes"]}
        top = expected[number].topk(3)
        assert list(found) == [str(index) for index in top.indices.tolist()]
        assert list(found.values()) == pytest.approx(top.values.tolist(), rel=1e-4)


def test_predict_goes_on_past_what_cannot_be_read(pictures: Path, command: Command) -> None:
    (pictures / "broken.png").write_bytes(b"no picture at all")
    (pictures / "empty").mkdir()
    told = command("predict", "best", str(pictures), "nowhere.png", str(pictures / "empty"), "--format", "csv")
    assert told.status == 1
    rows = list(csv.DictReader(io.StringIO(told.out)))
    assert len(rows) == 15
    failed = [row for row in rows if row["error"]]
    assert {Path(row["path"]).name for row in failed} == {"broken.png", "nowhere.png", "empty"}
    assert all(row["class"] == "" for row in failed)
    assert told.err.count("\n") == 4  # which run, and a line for each
    right = [row["class"] == Path(row["path"]).stem[-1] for row in rows if not row["error"]]
    assert sum(right) >= 9


def test_predict_resizes_and_greys_as_the_run_needs(tmp_path: Path, command: Command) -> None:
    Image.new("RGB", (300, 200), "white").save(tmp_path / "large.jpg")
    told = command("predict", "latest", str(tmp_path / "large.jpg"))
    assert told.status == 0, told.err
    assert re.fullmatch(r"\S*large\.jpg  \d \d+\.\d%\n", told.out)


def test_predict_needs_pictures_to_look_at(tmp_path: Path, checkpoint: Path, command: Command) -> None:
    _, state = load_checkpoint(checkpoint)
    points = altered(checkpoint, tmp_path / "points", images={**state["images"], "image_shape": [2, 1, 1]})
    told = command("predict", str(points), "a.png")
    assert told.status in (1, 2)
    assert told.err.count("\n") == 1
