"""Streamed images: the same batches as those on the device, and processes that come and go in good order."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from folders import image_folder, make_folder, pack
from gradlab.data import stream
from gradlab.data.datasets.base import Examples, Splits, StreamedExamples
from gradlab.data.device import DeviceImages, Normalization, Pick
from gradlab.data.stream import StreamedImages
from gradlab.errors import DataError, GradlabError
from processes import ROOT, Finished, environment, gradlab, train

# Python 3.12 and later warn of forking beside threads; the forked processes only decode.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

CPU = torch.device("cpu")
COUNTS = {"train/a": 20, "train/b": 30, "test/a": 5, "test/b": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_folder(tmp_path_factory.mktemp("stream") / "pictures", COUNTS)
    pack(root, root.parent / "packed.tar.gz")
    return root


@pytest.fixture(scope="module")
def resident(folder: Path) -> Splits:
    return image_folder(folder).load()


@pytest.fixture(scope="module", params=["folder", "archive"])
def streamed(request: pytest.FixtureRequest, folder: Path) -> Splits:
    return image_folder(
        folder if request.param == "folder" else folder.parent / "packed.tar.gz", stream="always"
    ).load()


def picks(count: int) -> list[Pick]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return [Pick(0, indices) for indices in order.split(7)]


def test_a_streamed_split_is_the_same_split(resident: Splits, streamed: Splits) -> None:
    assert streamed.fingerprint == resident.fingerprint
    for name in ("train", "val", "test"):
        lazy, plain = getattr(streamed, name), getattr(resident, name)
        assert isinstance(lazy, StreamedExamples)
        assert len(lazy) == len(plain)
        assert lazy.image_shape == plain.image_shape
        assert lazy.decoded_bytes == plain.decoded_bytes == plain.images.nbytes
        assert np.array_equal(lazy.images, plain.images)
        assert np.array_equal(lazy.labels, plain.labels)
        assert np.array_equal(lazy.moments(), plain.moments())
        some = np.array([3, 0, 3])
        assert np.array_equal(lazy.at(some), plain.at(some))
        assert np.array_equal(lazy.take(some).images, plain.take(some).images)
        assert np.array_equal(lazy.take(some).moments(), plain.take(some).moments())
        ours, theirs = Normalization.of(lazy), Normalization.of(plain)
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.std, theirs.std)


def test_moments_are_numpys_sums() -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 2, 60, 40)).astype(np.uint8)
    wide = images.astype(object)
    expected = [wide.sum((0, 2, 3)).tolist(), (wide**2).sum((0, 2, 3)).tolist()]
    assert Examples(images, np.zeros(700, dtype=np.int64)).moments().tolist() == expected


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("through", ["shared memory", "pipe"])
def test_streamed_batches_are_those_of_the_device(
    resident: Splits, streamed: Splits, workers: int, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_fits_shared", lambda *_: through == "shared memory")
    lazy, plain = StreamedImages(streamed.train, CPU), DeviceImages(resident.train, CPU)
    lazy.workers = workers
    assert len(lazy) == len(plain)
    for ours, theirs in [
        (lazy.batches(picks(len(plain))), plain.batches(picks(len(plain)))),
        (lazy.in_order(9), plain.in_order(9)),
    ]:
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
            assert one[0].dtype == torch.uint8


def test_images_in_memory_are_streamed_too(resident: Splits) -> None:
    """As to a GPU on which they do not fit."""
    lazy, plain = StreamedImages(resident.train, CPU), DeviceImages(resident.train, CPU)
    assert lazy.workers == 0
    for one, other in zip(lazy.batches(picks(40)), plain.batches(picks(40)), strict=True):
        assert torch.equal(one[0], other[0])


def test_torchs_own_generator_is_neither_read_nor_moved(streamed: Splits) -> None:
    before = torch.random.get_rng_state()
    for _ in StreamedImages(streamed.train, CPU).in_order(20):
        pass
    assert torch.equal(torch.random.get_rng_state(), before)


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if is_running(pid)}


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def no_process_left() -> Iterator[None]:
    before = children()
    yield
    gc.collect()
    assert children() <= before


@pytest.mark.usefixtures("no_process_left")
def test_workers_end_with_their_iterator_their_source_or_their_last_batch(streamed: Splits) -> None:
    before = children()
    source = StreamedImages(streamed.train, CPU)
    batches = source.batches(picks(40))
    next(batches)
    assert len(children() - before) == source.workers
    batches.close()  # type: ignore[attr-defined]
    assert children() <= before
    batches = source.batches(picks(40))
    next(batches)
    source.close()
    assert children() <= before
    assert len(list(StreamedImages(streamed.train, CPU).in_order(7))) == 6
    assert children() <= before


@pytest.mark.usefixtures("no_process_left")
def test_a_picture_that_is_damaged_meanwhile_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pictures", COUNTS)
    splits = image_folder(root, stream="always").load()
    (root / "test" / "a" / "003.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        list(StreamedImages(splits.test, CPU).in_order(3))
    assert str(caught.value) == f"{root}/test/a/003.png is empty (0 bytes). It was changed after this run had begun."


@pytest.mark.usefixtures("no_process_left")
def test_a_worker_that_is_killed_is_told_in_one_line(streamed: Splits) -> None:
    before = children()

    def train_and_kill() -> None:
        for number, _ in enumerate(StreamedImages(streamed.train, CPU).batches(picks(40) * 1000)):
            if number == 3:
                os.kill(min(children() - before), signal.SIGKILL)

    with pytest.raises(GradlabError) as caught:
        train_and_kill()
    assert "was ended from outside" in str(caught.value)
    assert not stream._CHILDREN.waiting


# ----------------------------------------------------------------------------------------------------------- whole runs


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "data=image_folder", f"data.root={folder}", f"data.cache_dir={folder.parent}/cache", "data.batch_size=8",
        "model=cnn", "model.channels=[4]", "model.dropout=0.3", "tracking=none", "trainer.threads=1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def streamed_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    finished = train(tmp_path_factory.mktemp("run"), *arguments(folder, "data.stream=always", "trainer.max_epochs=2"))
    assert finished.status == 0, finished.err
    assert finished.err == ""
    return finished


def test_a_streamed_run_trains_the_same_network(streamed_run: Finished, folder: Path, tmp_path: Path) -> None:
    plain = train(tmp_path, *arguments(folder, "data.stream=never", "trainer.max_epochs=2", "plots=false"))
    assert plain.status == 0, plain.err
    assert "8.5 kB on the device" in plain.out
    assert "8.5 kB decoded, streamed by" in streamed_run.out
    for key in ("parameters_sha256", "data_sha256", "metrics"):
        assert plain.result[key] == streamed_run.result[key]


def test_a_streamed_run_draws_its_figures_and_is_evaluated(streamed_run: Finished) -> None:
    assert (streamed_run.run / "plots" / "mistakes.png").exists()
    again = gradlab(streamed_run.folder, "evaluate", str(streamed_run.run), "--split", "test", "--format", "json")
    assert again.status == 0, again.err
    assert json.loads(again.out)["accuracy"] == streamed_run.result["metrics"]["test/accuracy"]


def start_endless(folder: Path, where: Path) -> "subprocess.Popen[str]":
    """A streamed run that would train for hours, in a process group of its own, once it trains."""
    command = [sys.executable, str(ROOT / "train.py")]
    command += arguments(
        folder, "data.stream=always", "trainer.max_epochs=100000", "trainer.speed=safe", "trainer.log_every=20 steps"
    )
    process = subprocess.Popen(
        command, cwd=where, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        runs = list((where / "outputs").glob("*"))
        if runs and (runs[0] / "journal.jsonl").exists() and "val/loss" in (runs[0] / "journal.jsonl").read_text():
            return process
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(process.communicate())


def group(leader: int) -> list[int]:
    """The running processes of a group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, of_group = int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[2])
            if of_group == leader and is_running(pid):
                found.append(pid)
    return found


def assert_group_ends(leader: int) -> None:
    deadline = time.monotonic() + 600
    while group(leader) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert group(leader) == []


@pytest.mark.parametrize(
    ("signum", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_to_all_its_processes_ends_a_run_with_a_checkpoint(
    folder: Path, tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    """As Ctrl-C in a terminal does, and a batch system."""
    process = start_endless(folder, tmp_path)
    deadline = time.monotonic() + 600  # between a validation and the next round it has no workers
    while len(group(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(group(process.pid)) >= 3
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=900)
    assert process.returncode == status, out + err
    assert err == ""
    finished = Finished(process.returncode, out, err, tmp_path)
    assert finished.result["status"] == "killed"
    state = json.loads((finished.run / "checkpoints" / "last" / "state.json").read_text())
    assert finished.result["steps"] > 0
    assert state
    assert_group_ends(process.pid)


@pytest.mark.parametrize("victim", [pytest.param("worker", marks=pytest.mark.slow), "run"])
def test_whoever_is_killed_the_others_end_too(folder: Path, tmp_path: Path, victim: str) -> None:
    process = start_endless(folder, tmp_path)
    # The oldest worker is one of those of the training; those of a validation come and go.
    os.kill(min(set(group(process.pid)) - {process.pid}) if victim == "worker" else process.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=900)
    if victim == "worker":
        assert process.returncode == 1, out + err
        assert err.count("\n") == 2, err
        assert "gradlab: the run failed. A process that decodes images was ended from outside" in err
        assert Finished(1, out, err, tmp_path).result["status"] == "failed"
    assert_group_ends(process.pid)


@pytest.mark.slow
def test_what_a_script_prints_measures(tmp_path: Path) -> None:
    """scripts/measure_streaming.py, small."""
    script = [sys.executable, str(ROOT / "scripts" / "measure_streaming.py"), "--pictures", "400", "--side", "24"]
    done: Any = subprocess.run(
        [*script, "--steps", "3", "--runs", "1", "trainer.threads=1"], cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)),
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run 1: peak" in done.stdout
    assert not list(tmp_path.glob("gradlab-streaming-*"))
