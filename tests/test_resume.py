"""Going on with a run: which one, with what, from where. Real kills are in test_resume_runs.py."""

import functools
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from gradlab.checkpoints import Checkpoint, Checkpointer, load_checkpoint, newest_checkpoint, save_checkpoint
from gradlab.classifier import Classifier
from gradlab.config import Config, Origin, build_config
from gradlab.errors import CheckpointError, ConfigError
from gradlab.resume.beginning import resumption
from gradlab.resume.fingerprint import difference, fingerprint
from gradlab.resume.settings import changes, result_changing, stretched, told, with_overrides
from gradlab.resume.which import find_folder, single_runs, with_its_choices
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.holding import Held, unshipped
from gradlab.tracking.journal import Journal, metric_rows, records
from gradlab.tracking.retaking import RetakenRows, cut, line_end
from tiny import From, choice, fit, normed

Compose = Callable[..., DictConfig]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


# --------------------------------------------------------------------------------- the journal's rows


def journal_of(folder: RunFolder, steps: int, retaken: RetakenRows | None = None, first: int = 1) -> Journal:
    journal = Journal(folder.journal, retaken)
    for step in range(first, steps + 1):
        journal.metrics(step, {"train/loss": 1 / step})
        journal.metrics(step, {"val/loss": 2 / step, "throughput/images_per_second": os.getpid() + step})
    return journal


def test_rows_that_are_made_again_are_as_they_were(folder: RunFolder) -> None:
    journal_of(folder, 6).close()
    whole = folder.journal.read_bytes()
    offset = [behind for record, behind in records(folder.journal) if record["step"] == 2][-1]
    for _ in range(2):  # killed twice, the second time before any row was made again
        cut(folder, offset)
    assert [step for step, _ in metric_rows(folder.journal)] == [1, 1, 2, 2]
    retaken = RetakenRows(folder)
    journal = Journal(folder.journal, retaken)
    for step in range(3, 7):
        journal.metrics(step, {"train/loss": 1 / step})
        journal.metrics(step, {"val/loss": 2 / step, "throughput/images_per_second": 0.5})
    journal.close()
    assert folder.journal.read_bytes() == whole  # its times, and what a clock had measured, too
    assert retaken.differs is None


def test_of_rows_that_came_out_otherwise_the_later_one_stays(folder: RunFolder) -> None:
    journal_of(folder, 4).close()
    cut(folder, 0)
    retaken = RetakenRows(folder)
    journal = Journal(folder.journal, retaken)
    for step, loss in ((1, 1.0), (2, 7.0), (3, float("nan"))):
        journal.metrics(step, {"train/loss": loss})
    journal.close()
    assert retaken.differs == 2
    rows = list(metric_rows(folder.journal))
    assert [(step, row["train/loss"]) for step, row in rows[:2]] == [(1, 1.0), (2, 7.0)]
    assert rows[2][1]["train/loss"] != rows[2][1]["train/loss"]


def test_what_was_shipped_further_is_shipped_again(folder: RunFolder) -> None:
    journal_of(folder, 3).close()
    state = {"tracking_uri": "sqlite:///x.db", "run_id": "a", "offset": 10_000, "ended": True}
    folder.shipped.write_text(json.dumps(state))
    first, second = [behind for _, behind in records(folder.journal)][:2]
    cut(folder, second)
    assert json.loads(folder.shipped.read_text()) == {**state, "offset": second, "ended": False}
    folder.shipped.write_text(json.dumps({**state, "offset": first}))
    cut(folder, second)
    assert json.loads(folder.shipped.read_text())["offset"] == first


def test_a_cut_never_parts_a_line(folder: RunFolder) -> None:
    journal_of(folder, 2).close()
    ends = [0, *(behind for _, behind in records(folder.journal))]
    for offset in range(folder.journal.stat().st_size + 5):
        assert line_end(folder.journal, offset) == max(end for end in ends if end <= offset)


# ------------------------------------------------------------------------------------- one process


def test_a_run_has_one_process(folder: RunFolder) -> None:
    held = Held(folder)
    child = os.fork()
    if not child:  # it has not got the lock by being forked, and does not get it by asking
        try:
            Held(folder)
        except ConfigError as error:
            os._exit(0 if f"process {os.getppid()} on" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.release()
    Held(folder).release()


def test_a_killed_process_holds_nothing(folder: RunFolder) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        Held(folder)
        grandchild = os.fork()  # such as one that reads images, which notices the death of its parent seconds later
        if not grandchild:
            signal.pause()
        os.write(writer, str(grandchild).encode())
        signal.pause()
    grandchild = int(os.read(reader, 20))
    with pytest.raises(ConfigError, match="still running"):
        Held(folder)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Held(folder).release()
    os.kill(grandchild, signal.SIGKILL)


def test_the_shipper_of_a_killed_run_is_waited_for(folder: RunFolder) -> None:
    import fcntl
    import threading

    folder.journal.touch()
    said: list[str] = []
    with folder.journal.open() as shipping:
        fcntl.flock(shipping, fcntl.LOCK_EX)
        threading.Timer(0.3, lambda: fcntl.flock(shipping, fcntl.LOCK_UN)).start()
        with unshipped(folder, said.append):
            assert len(said) == 1


# -------------------------------------------------------------------------------------- checkpoints


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (1, 2):
        save_checkpoint(tmp_path / "last", {"weight": torch.full((3,), float(step))}, {"step": step})
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.remark) == (2, None)
    (tmp_path / "last").rename(tmp_path / "elsewhere")  # as between the two renames of a writing
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.remark) == (1, None)
    (tmp_path / "elsewhere").rename(tmp_path / "last")
    (tmp_path / "last" / "state.json").write_text("{")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert found.remark is not None
    assert "last cannot be read" in found.remark
    assert found.remark.endswith("The one before it is used, of step 1.")
    (tmp_path / "last.previous" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole"):
        newest_checkpoint(tmp_path)


def test_checkpoints_take_no_more_than_their_share_of_the_time(
    tmp_path: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 150 s and saves of 5 s, by a clock of our own: every 5 minutes would be more than 1 %."""
    trainer = build_config(compose("trainer.checkpoint_every=auto")).trainer
    now, saved = 0.0, []
    monkeypatch.setattr("gradlab.checkpoints.time.monotonic", lambda: now)

    class Slow(Checkpointer):
        def _write_last(self) -> None:
            nonlocal now
            saved.append(now)
            now += 5

        def on_train_batch_end(self, *arguments: Any) -> None:
            nonlocal now
            now += 150
            super().on_train_batch_end(*arguments)

    seconds, steps = trainer.checkpoint_rhythm(build_config(compose()).horizon)
    for share, expected in ((trainer.checkpoint_share, [450, 605, 605]), (1.0, [450, 305, 305, 305, 305])):
        now, saved = 0.0, []
        made = functools.partial(Slow, folder=tmp_path, seconds=seconds, about={}, steps=steps, share=share)
        fit(normed(), choice("optimizer", "sgd"), 60, of_learner=[made])
        pauses = [later - earlier for earlier, later in itertools.pairwise([0.0, *saved[:-1]])]
        assert pauses == expected


def test_the_best_network_is_that_of_the_same_instant(tmp_path: Path) -> None:
    """Killed between the writing of ``last`` and of ``best``, a run has a ``best`` of another step."""
    fit(normed(), choice("optimizer", "adam", lr=0.02), 10, of_learner=[lambda it: Checkpointer(it, tmp_path, 0, {})])
    tensors, state = load_checkpoint(tmp_path / "last")
    assert state["best_step"] in (5, 10)
    best = {name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")}
    save_checkpoint(tmp_path / "best", {"model.other": torch.ones(1)}, {"step": 3, "metrics": {"val/accuracy": 1.0}})
    begin = newest_checkpoint(tmp_path)
    found: list[Any] = []

    class Noted(Checkpointer):
        def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            super().on_fit_start(trainer, module)
            self.write()
            found.append((self.best, *load_checkpoint(tmp_path / "best")))

    fit(
        normed(1),
        choice("optimizer", "adam", lr=0.02),
        10,
        of_learner=[lambda it: Noted(it, tmp_path, 0, {}, begin=begin)],
    )
    ((in_memory, on_disk, told_of_it),) = found
    assert in_memory == told_of_it["metrics"] == state["best"]
    assert told_of_it["step"] == state["best_step"]
    assert {name.removeprefix("model."): tensor.tolist() for name, tensor in on_disk.items()} == {
        name: tensor.tolist() for name, tensor in best.items()
    }


def test_checkpoints_come_by_steps(tmp_path: Path) -> None:
    written = []

    class Noted(Checkpointer):
        def _write_last(self) -> None:
            written.append(self.learner.ledger.steps_done)
            super()._write_last()

    fit(normed(), choice("optimizer", "sgd"), 25, of_learner=[lambda it: Noted(it, tmp_path, 0, {}, steps=10)])
    assert written == [10, 20, 25]


class Signal(pl.Callback):
    """SIGTERM within the validation after step ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        assert isinstance(module, Classifier)
        if module.learner.ledger.steps_done == self.at:
            module.interruption.signum = signal.SIGTERM


def test_a_signal_cuts_a_validation_short_and_it_is_due(tmp_path: Path) -> None:
    optimizer, plateau = choice("optimizer", "adam", lr=0.02), choice("schedule", "plateau", patience="0 validations")
    module, rows = fit(
        normed(), optimizer, 25, schedule=plateau, callbacks=[Signal(10)],
        of_learner=[lambda it: Checkpointer(it, tmp_path, 0, {})],
    )  # fmt: skip
    ledger = module.learner.ledger
    assert (ledger.steps_done, ledger.validated_at) == (10, 5)
    assert [step for step, row in rows if "val/loss" in row] == [5]
    _, state = load_checkpoint(tmp_path / "last")
    assert state["ledger"]["validated_at"] == 5
    assert state["plateau"]["last_step"] == 5


def test_a_run_that_was_stopped_at_its_last_step_writes_what_its_last_validation_found(tmp_path: Path) -> None:
    """Nothing is left to train, and Lightning tells of no end of a training."""
    adam = choice("optimizer", "adam", lr=0.02)
    fit(normed(), adam, 10, callbacks=[Signal(10)], of_learner=[lambda it: Checkpointer(it, tmp_path, 0, {})])
    begin = newest_checkpoint(tmp_path)
    assert begin is not None
    assert (begin.step, begin.state["ledger"]["validated_at"]) == (10, 5)
    shutil.rmtree(tmp_path / "best")  # killed between the writing of last and of best

    class AtLast(Checkpointer):
        def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            super().on_fit_start(trainer, module)
            self.learner.ledger.validated_at = 10  # what the validation before the first step does

    go_on = From(10, *parts_of_it(begin))
    fit(normed(), adam, 10, go_on=go_on, of_learner=[lambda it: AtLast(it, tmp_path, 0, {}, begin=begin)])
    _, state = load_checkpoint(tmp_path / "last")
    assert (state["step"], state["ledger"]["validated_at"]) == (10, 10)
    assert load_checkpoint(tmp_path / "best")[1]["step"] == 5


def parts_of_it(begin: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return {name: tensor for name, tensor in begin.tensors.items() if not name.startswith("best.")}, begin.state


def test_a_signal_within_a_round_adds_no_validation(tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch.first_step == 5:
                module.interruption.signum = signal.SIGTERM

    module, rows = fit(normed(), choice("optimizer", "adam"), 25, callbacks=[Stop()])
    assert module.learner.ledger.steps_done == 6
    assert [step for step, row in rows if "val/loss" in row] == [5]


# ------------------------------------------------------------------------------------ configuration


def config_of(compose: Compose, *overrides: str) -> Config:
    return build_config(compose(*overrides))


def overridden(compose: Compose, before: Config, *overrides: str) -> Config:
    composed: Any = OmegaConf.to_container(compose(*overrides), resolve=True)
    made = OmegaConf.create(with_overrides(before.composed, composed, overrides))
    assert isinstance(made, DictConfig)
    return build_config(made)


def test_a_run_keeps_what_no_override_names(compose: Compose) -> None:
    before = config_of(compose, "optimizer=momentum", "optimizer.lr=0.3", "seed=4", "augment=[crop,flip]", "model=cnn")
    same = overridden(compose, before, "optimizer=momentum", "optimizer.lr=0.3")
    assert changes(before, same) == {}
    after = overridden(
        compose, before, "optimizer=momentum", "optimizer.momentum=0.5", "trainer.checkpoint_every=1 minutes"
    )
    assert after.optimizer.lr == 0.3  # the choice is the run's own, and so are its numbers
    assert (after.seed, after.model.name, [one.name for one in after.augment]) == (4, "cnn", ["crop", "flip"])
    assert told(changes(before, after)) == "optimizer.momentum 0.9 → 0.5"
    assert list(result_changing(before, after, changes(before, after))) == ["optimizer.momentum"]
    other = overridden(compose, before, "optimizer=sgd", "augment=[flip,crop]")
    assert told(changes(before, other)).startswith("optimizer.name momentum → sgd, optimizer.lr 0.3 → 0.1, ")
    assert told(changes(before, other)).endswith("augment.name ['crop', 'flip'] → ['flip', 'crop']")


@pytest.mark.parametrize(
    ("override", "free"),
    [
        ("trainer.max_epochs=30", True), ("trainer.max_epochs=10", False), ("trainer=cpu", True), ("trainer.threads=1", True),
        ("tracking=none", True), ("plots=false", True), ("name=other", True), ("trainer.probe_every=10%", True),
        ("seed=1", False), ("data.batch_size=64", False), ("trainer.validate_every=10 steps", False), ("init=xavier", False),
        ("trainer.precision=fp64", False), ("averaging=ema", False), ("augment=flip", False),
    ],
)  # fmt: skip
def test_what_changes_the_result_is_named(compose: Compose, override: str, free: bool) -> None:
    before = config_of(compose)
    after = overridden(compose, before, override)
    assert (result_changing(before, after, changes(before, after)) == {}) is free


def test_a_recipe_does_not_go_with_a_resumed_run(compose: Compose) -> None:
    with pytest.raises(ConfigError, match="a recipe chooses everything anew"):
        with_overrides({}, {}, ["experiment=mnist_cnn"])


def test_what_a_longer_training_does_to_its_schedule(compose: Compose) -> None:
    before = config_of(compose, "schedule.warmup=0")
    assert stretched(before, config_of(compose, "schedule.warmup=0"), 820) is None
    line = stretched(before, config_of(compose, "schedule.warmup=0", "trainer.max_epochs=40"), 820)
    assert line is not None
    assert "820 → 1,640 steps" in line
    assert "learning rate at step 820 is 0.0015" in line
    before = config_of(compose, "schedule=constant", "schedule.warmup=0")
    after = config_of(compose, "schedule=constant", "schedule.warmup=0", "trainer.max_epochs=40")
    line = stretched(before, after, 820)
    assert line is not None
    assert line.endswith("schedule=constant has the same learning rate there.")


def test_a_fingerprint_names_what_differs() -> None:
    here = fingerprint("AMD EPYC, 2 cores", 1)
    assert difference(here, fingerprint("AMD EPYC, 64 cores", 1)) is None
    line = difference({**here, "torch": "1.0"}, fingerprint("AMD EPYC, 2 cores", 2))
    assert line is not None
    assert f"torch {torch.__version__.split('+')[0]} instead of 1.0" in line
    assert "threads 2 instead of 1" in line
    assert "may differ" in line


# --------------------------------------------------------------------------------------- which run


def made_run(output_dir: Path, name: str, composed: dict[str, Any] | None = None) -> Path:
    run = output_dir / name
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps(composed or {}))
    return run


def test_the_latest_run_is_the_one_that_began_last(tmp_path: Path) -> None:
    early = made_run(tmp_path, "2026-01-02_03-04-05_b")
    late = made_run(tmp_path, "2026-01-02_03-04-06_a")
    sweep = made_run(tmp_path, "2026-09-02_03-04-06_sweep")
    (sweep / "sweep.json").write_text("{}")
    assert [run.path for run in single_runs(tmp_path)] == [late, early]
    assert find_folder("latest", tmp_path, None).path == late
    assert find_folder(str(early), tmp_path, None).path == early
    with pytest.raises(ConfigError, match="that is a sweep"):
        find_folder(str(sweep), tmp_path, None)
    with pytest.raises(ConfigError, match="no run's folder"):
        find_folder(str(tmp_path), tmp_path, None)


def test_hydra_is_told_the_runs_own_choices(tmp_path: Path) -> None:
    composed = {"optimizer": {"name": "momentum"}, "augment": {"crop": {}, "flip": {}}, "model": {"name": "cnn"}}
    run = made_run(tmp_path, "2026_lr=0.1", composed)
    axes = ["optimizer", "augment", "model"]

    def words(*arguments: str) -> list[str]:
        return with_its_choices(arguments, axes, "augment")

    assert words(f"resume={run}", "optimizer.momentum=0.5") == [
        f'resume="{run}"', "optimizer.momentum=0.5", "optimizer=momentum",
    ]  # fmt: skip
    assert words(f"resume={run}", "augment.crop.padding=2", "model=mlp", "model.depth=1")[-1] == "augment=[crop,flip]"
    assert words("resume=true", "-m", "optimizer.momentum=0.5") == ["resume=true", "-m", "optimizer.momentum=0.5"]
    assert words("optimizer.momentum=0.5") == ["optimizer.momentum=0.5"]


def test_auto_imports_nothing_that_another_run_names(
    tmp_path: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poisonous.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    composed = compose(f"output_dir={tmp_path}/outputs", "resume=auto")
    other = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(other, dict)
    (tmp_path / "outputs" / "other").mkdir(parents=True)
    told = {**other, "imports": ["poisonous"], "resume": False}
    (tmp_path / "outputs" / "other" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(told)))
    assert resumption(composed, "auto", Origin()) is None
    assert not (tmp_path / "canary").exists()
