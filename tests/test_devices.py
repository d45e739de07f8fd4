"""One run over several devices: real processes, by gloo on the CPU, against the same run on one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import metric_rows, records
from processes import ROOT, environment, train

# 1,294 images in batches of 48: the last one has 46, so that parts of a batch are not alike between two devices, nor four.
STEPS = 40
COMMON = [
    *(
        "trainer=cpu",
        "trainer.precision=fp64",
        "trainer.threads=1",
        "trainer.max_epochs=null",
        f"trainer.max_steps={STEPS}",
    ),
    *("trainer.log_every=4 steps", "trainer.validate_every=10 steps", "data.batch_size=48", "plots=false"),
]
ALL_AT_ONCE = [
    *COMMON,
    *("model=cnn", "augment=[crop,mixup]", "optimizer=adamw", "averaging=ema", "trainer.clip_norm=0.5"),
    *("data.class_weights=balanced", "loss.label_smoothing=0.1"),
]


def assert_alike(run: Path, other: Path, within: float = 1e-9, ended_at: int = 0) -> None:
    """The same rows in the same order, once each, and the same values but for rounding.

    A run that had been shorter has a row of its results then, which is none of the other's.
    """
    ours, theirs = (list(metric_rows(RunFolder(path).journal)) for path in (run, other))
    ours = [(step, values) for step, values in ours if step != ended_at or "test/loss" not in values]
    assert [(step, sorted(values)) for step, values in ours] == [(step, sorted(values)) for step, values in theirs]
    for (step, values), (_, expected) in zip(ours, theirs, strict=True):
        for name, value in values.items():
            if not name.startswith("throughput/"):
                assert value == pytest.approx(expected[name], rel=within, abs=within), (step, name)


def test_two_devices_train_what_one_does_also_when_stopped_and_resumed_on_one(tmp_path: Path) -> None:
    """BatchNorm, mixed images, weights' averages, a bound of the gradients' norm: everything that looks at a whole batch."""
    (tmp_path / "one").mkdir()
    alone = train(tmp_path / "one", *ALL_AT_ONCE, "tracking=none")
    assert alone.status == 0, alone.err
    (tmp_path / "two").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *ALL_AT_ONCE, "trainer.devices=2"],
        cwd=tmp_path / "two", env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    journals: list[Path] = []
    while not (journals and "train/loss" in journals[0].read_text()) and process.poll() is None:
        journals = list(tmp_path.glob("two/outputs/*/journal.jsonl"))
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 143, out + err
    assert "on 2 × " in out
    resumed = train(tmp_path / "two", "resume=latest", "trainer.devices=1", "trainer=cpu")
    assert resumed.status == 0, resumed.err
    assert_alike(resumed.run, alone.run)
    assert not (resumed.run / "devices.log").exists()
    (stored,) = MlflowClient(f"sqlite:///{tmp_path}/two/mlflow.db").search_runs(["1"])
    assert stored.info.status == "FINISHED"
    kinds = [record["kind"] for record, _ in records(RunFolder(resumed.run).journal)]
    assert kinds.count("run") == kinds.count("end") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize(
    "choices",
    [
        ["model=mlp", "optimizer=sgd", "wrapper=sam", "trainer.accumulate=2"],
        ["model=resnet", "optimizer=momentum", "augment=[cutmix]", "schedule=plateau"],
        [
            "model=cnn",
            "optimizer=muon",
            "averaging=swa",
            "averaging.every=2 steps",
            "trainer.clip_value=0.01",
            "trainer.accumulate=3",
        ],
        ["model=mlp", "optimizer=schedule_free_adamw", "schedule=constant", "param_groups=no_decay", "init=lsuv"],
    ],
)
def test_several_devices_train_what_one_does(tmp_path: Path, devices: int, choices: list[str]) -> None:
    runs: list[Path] = []
    for number in (1, devices):
        folder = tmp_path / str(number)
        folder.mkdir()
        finished = train(
            folder, *COMMON, *choices, f"trainer.devices={number}", "tracking=none", timeout=900, GRADLAB_CORES="4"
        )
        assert finished.status == 0, finished.err
        runs.append(finished.run)
    assert_alike(runs[0], runs[1])


@pytest.mark.slow
def test_a_device_whose_process_dies_ends_the_run_and_says_so(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *(word for word in COMMON if "max_steps" not in word), "model=cnn",
         "trainer.max_steps=100000", "trainer.devices=2", "tracking=none"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    helpers: list[int] = []
    while not any("train/loss" in path.read_text() for path in tmp_path.glob("outputs/*/journal.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    helpers = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_helper_of(path, process.pid)]
    assert len(helpers) == 1
    os.kill(helpers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 1, out + err
    assert "The process of device 1 ended" in err
    assert "Traceback" not in err
    (result,) = tmp_path.glob("outputs/*/result.json")
    assert json.loads(result.read_text())["status"] == "failed"


def _is_helper_of(process: Path, parent: int) -> bool:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return int(fields[1]) == parent and b"gradlab.devices.helper" in (process / "cmdline").read_bytes()
    except (OSError, IndexError):
        return False


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    refused = train(tmp_path, "data.batch_size=431", "trainer.devices=2", "trainer=cpu")
    assert refused.status == 2
    assert "the smallest batch of an epoch has 1 images" in refused.err
    assert not (tmp_path / "outputs").exists()


PARTS = [
    *(word for word in COMMON if "max_steps" not in word),
    *("model=cnn", "augment=[crop,mixup]", "optimizer=adamw", "schedule=constant", "trainer.clip_norm=0.5"),
    *("trainer.accumulate=2", "data.class_weights=balanced", "loss.label_smoothing=0.1", "tracking=none"),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param("2 fsdp", "1 ddp", marks=pytest.mark.slow),
        pytest.param("1 ddp", "2 fsdp", marks=pytest.mark.slow),
        pytest.param("4 fsdp", "2 fsdp", marks=pytest.mark.slow),
        pytest.param("2 ddp", "4 fsdp", marks=pytest.mark.slow),
    ],
)
def test_a_network_in_parts_trains_as_on_one_device_and_goes_on_elsewhere(
    tmp_path: Path, first: str, then: str
) -> None:
    """Half of the training on some devices, the other half on others; checkpoints are those of any run."""
    runs = []
    for halves in (["1 ddp"], [first, then]):
        folder = tmp_path / str(len(halves))
        folder.mkdir()
        resume: list[str] = []
        for number, half in enumerate(halves, start=1):
            devices, sharding = half.split()
            length = f"trainer.max_steps={STEPS * number // len(halves)}"
            choices = [*PARTS, length, f"trainer.devices={devices}", f"trainer.sharding={sharding}", *resume]
            finished = train(folder, *choices, timeout=900, GRADLAB_CORES="4")
            assert finished.status == 0, finished.err
            resume = [f"resume={finished.run}"]
        runs.append(finished)
    alone, parts = runs
    assert_alike(parts.run, alone.run, ended_at=STEPS // 2)
    assert parts.result["metrics"] == pytest.approx(alone.result["metrics"], rel=1e-9)
    assert parts.result["parameters"] == alone.result["parameters"]


def test_what_wants_whole_weights_is_refused_where_they_are_in_parts(tmp_path: Path) -> None:
    refused = train(
        tmp_path, "trainer.sharding=fsdp", "trainer.devices=2", "optimizer=muon", "averaging=ema", "trainer=cpu"
    )
    assert refused.status == 2
    assert "and not with optimizer=muon, averaging=ema" in refused.err
    refused = train(tmp_path, "trainer.sharding=fsdp")
    assert refused.status == 2
    assert "and trainer.devices is 1" in refused.err
    assert not (tmp_path / "outputs").exists()
