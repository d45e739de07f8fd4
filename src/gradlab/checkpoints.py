"""Checkpoints: safe to open, whole or absent.

A checkpoint is a folder with ``tensors.safetensors`` and ``state.json``. It is written under a temporary name in the same
folder, flushed to disk and renamed, so that it is there whole or not at all; ``state.json`` holds the SHA-256 of the tensors
and of itself. Nothing is pickled, so opening one runs no code.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from gradlab.disk import room_for
from gradlab.errors import CheckpointError
from gradlab.learner import Learner
from gradlab.lightning import pl

TENSORS, STATE = "tensors.safetensors", "state.json"
LAST, BEST = "last", "best"


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint ``path``. One of that name is kept as ``<name>.previous``, in place of an earlier such one.

    So at every instant a whole checkpoint stands under one of the two names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        content = save(_apart(tensors))
        state = {**state, "tensors_sha256": hashlib.sha256(content).hexdigest()}
        state["state_sha256"] = _digest(state)
        _write_to_disk(temporary / TENSORS, content)
        _write_to_disk(temporary / STATE, (json.dumps(state, indent=2) + "\n").encode())
        _flush_folder(temporary)
        if path.exists():
            shutil.rmtree(previous(path), ignore_errors=True)
            path.rename(previous(path))
        temporary.rename(path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the state of a checkpoint.

    Raises:
        CheckpointError: it is not there, is not whole, or its checksums do not match its content.
    """
    try:
        content = (path / TENSORS).read_bytes()
        state = json.loads((path / STATE).read_text())
        told = state.pop("state_sha256")
        if _digest(state) != told or hashlib.sha256(content).hexdigest() != state["tensors_sha256"]:
            raise CheckpointError(f"The checkpoint {path} is damaged: its checksum does not match its content.")
        return load(content), state
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error}") from error


_OF_A_TRAINING: dict[str, type] = {
    "step": int, "journal_bytes": int, "best": dict, "best_step": int, "ledger": dict, "optimizer": dict, "wrapper": dict,
    "averaging": dict, "fingerprint": dict, "data_sha256": str,
}  # fmt: skip
"""What the state of a checkpoint that a training goes on from has at least."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, its tensors on the CPU.

    path: of the folder that it was read from.
    remark: what was wrong with a newer one; or None.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    remark: str | None = None

    @property
    def step(self) -> int:
        """Optimizer steps that had been made."""
        return int(self.state["step"])

    def check(self) -> None:
        """Raise ``CheckpointError`` where it is none that a training goes on from, whatever its checksums say."""
        for key, kind in _OF_A_TRAINING.items():
            value: Any = self.state.get(key)
            fits = isinstance(value, kind) and not (isinstance(value, int) and (isinstance(value, bool) or value < 0))
            if fits and key == "best" and value:
                fits = all(isinstance(value.get(name), float | int) for name in ("val/accuracy", "val/loss"))
            if not fits:
                raise CheckpointError(
                    f"The checkpoint {self.path} is not one of a training: '{key}' in its {STATE} is {json.dumps(value)[:50]}."
                )


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """``last`` in a run's ``checkpoints`` folder, or the one before it where ``last`` is damaged; None where there is none.

    Raises:
        CheckpointError: there is one, and none is whole.
    """
    damaged: list[str] = []
    for path in (folder / LAST, previous(folder / LAST)):
        if not path.exists():  # killed between two renames, a training has only the one before
            continue
        try:
            tensors, state = load_checkpoint(path)
            if not isinstance(state["step"], int):
                raise CheckpointError(f"The checkpoint {path} cannot be read: it names no step.")
        except (CheckpointError, KeyError) as error:
            damaged.append(str(error))
            continue
        remark = f"{damaged[0].rstrip('.')}. The one before it is used, of step {state['step']:,}." if damaged else None
        return Checkpoint(path, tensors, state, remark)
    if damaged:
        raise CheckpointError(f"No checkpoint in {folder} is whole. {' '.join(damaged)}")
    return None


def previous(path: Path) -> Path:
    """Where the checkpoint is that ``path`` has replaced."""
    return path.with_name(f"{path.name}.previous")


def clear_temporary(folder: Path) -> None:
    """Remove what a writing left that was killed; of a run that has no other process."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def parameters_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all parameters and buffers: equal exactly when the networks are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Checkpointer(pl.Callback):
    """Keeps the best network by validation, and writes checkpoints in time and at the end.

    ``best`` holds the network of the highest validation accuracy (of equal ones, the lowest loss; then the earliest),
    ``last`` all that the training goes on from: the network in training as ``model.…``, the optimizer's state, where another
    network is judged (an average, slow weights) that as ``averaging.…`` or ``wrapper.…``, the best network so far as
    ``best.…`` (so that it is always that of the same instant), the state of random generators, the books, and how far the
    journal was.

    Args:
        learner: whose networks these are.
        folder: where the checkpoints go.
        seconds: time between two writings while training; 0 for none by time.
        about: facts to record in every checkpoint.
        steps: optimizer steps between two writings; 0 for none by steps. One is written at the end in any case.
        begin: what the training goes on from; None from its start.
        anew: None where it is the same training that goes on; else it is another one, which starts from what ``begin`` holds
            but for this, see ``Learner.start_from``.
        share: of the time that writing may take at most, in (0, 1]; those by time come rarer for it.
        beside: of another member of the same population: both write after the same steps, so that all can go on from one.

    ``over`` is set once the learner trains no more, though others of its population do.
    """

    def __init__(
        self,
        learner: Learner,
        folder: Path,
        seconds: float,
        about: dict[str, Any],
        steps: int = 0,
        begin: Checkpoint | None = None,
        anew: Collection[str] | None = None,
        share: float = 1.0,
        beside: "Checkpointer | None" = None,
    ) -> None:
        self.learner = learner
        self.folder = folder
        self.about = about
        self.begin = begin
        self.anew = anew
        self.share = share
        self.best: dict[str, float] = {}
        self.best_step = 0
        self._best_tensors: dict[str, torch.Tensor] = {}
        self._best_on_disk = True
        self._at_the_end: dict[str, torch.Tensor] = {}
        self.over = False
        self._told_of_the_end = False
        self._rhythm: _Rhythm = beside._rhythm if beside else _Rhythm(seconds, steps, share, begin.step if begin else 0)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Everything is built and on its device: go on from where the training was."""
        if self.begin is None:
            return
        state = self.begin.state
        own = {name: tensor for name, tensor in self.begin.tensors.items() if not name.startswith("best.")}
        if self.anew is not None:
            self.learner.start_from(own, state, self.anew)
            return
        self.learner.load_training_state(own, state)
        self.best, self.best_step = state["best"], state["best_step"]
        self._best_tensors = {
            name.removeprefix("best."): tensor.clone()
            for name, tensor in self.begin.tensors.items()
            if name.startswith("best.")
        }
        self._best_on_disk = not self.best or self._is_on_disk()

    def _is_on_disk(self) -> bool:
        """Whether ``best`` is what ``last`` says: it may be newer, or damaged."""
        try:
            _, state = load_checkpoint(self.folder / BEST)
        except CheckpointError:
            return False
        return (state.get("step"), state.get("metrics")) == (self.best_step, self.best)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        ledger = self.learner.ledger
        if self.over or ledger.divergence or ledger.validated_at != ledger.steps_done:  # a signal has cut it short
            return
        better = not self.best or _rank(ledger.last_val) > _rank(self.best)
        if self._agreed(better):
            self.best, self.best_step = dict(ledger.last_val), ledger.steps_done
            # A copy on the device is cheap; the disk waits until a checkpoint is due.
            found = self.learner.network_state(self.learner.judged)
            self._best_tensors = {name: tensor.clone() for name, tensor in found.items()}
            self._best_on_disk = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.over or self.learner.ledger.steps_done >= self.learner.horizon.total_steps:
            return  # the end comes, with the last validation
        if self._agreed(self._rhythm.due(self.learner.ledger.steps_done)):
            self.write()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._told_of_the_end = True
        if not self.over:
            self.write()
        if self.learner.sharded:
            self._at_the_end = self.learner.network_state()

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A training that was stopped at its last step goes on with a validation alone, and Lightning tells of no end of it."""
        if not self._told_of_the_end:
            self.on_train_end(trainer, module)

    def write(self) -> None:
        """Write ``last``, and ``best`` if it has changed since it was written.

        Not the ``last`` of a diverged run: the rest of its chunk was trained before the loss was seen, and chunks differ
        in length from run to run.
        """
        began = time.monotonic()
        if self.learner.ledger.divergence is None:
            self._write_last()
        if not self._best_on_disk:
            best = {f"model.{name}": tensor for name, tensor in self._best_tensors.items()}
            save_checkpoint(self.folder / BEST, best, {**self.about, "step": self.best_step, "metrics": self.best})
            self._best_on_disk = True
        self._rhythm.took = time.monotonic() - began

    def _write_last(self) -> None:
        tensors, state = self.learner.training_state()
        ledger = self.learner.ledger
        position = {"step": ledger.steps_done, "best": self.best, "best_step": self.best_step}
        # The rows up to here are on the disk before the checkpoint is: none is lost, whatever stops the machine.
        position["journal_bytes"] = ledger.journal.flush()
        best = {f"best.{name}": tensor for name, tensor in self._best_tensors.items()}
        save_checkpoint(self.folder / LAST, tensors | best, {**self.about, **position, **state})

    def _agreed(self, said: bool) -> bool:
        """``said``, and all ranks know of it that have parts of the network: they are brought together next."""
        if self.learner.sharded:
            assert self.learner.ranks is not None
            self.learner.ranks.told(said, next(self.learner.model.parameters()).device)
        return said

    def restore_best(self) -> None:
        """Make the best network the learner's; there is one after any validation with a finite loss."""
        self._at_the_end = self._best_tensors
        if self.learner.sharded:
            self.learner.adopt_later(self._best_tensors)
        else:
            self.learner.adopt(self._best_tensors)

    def make_whole(self) -> None:
        """Training and test are over: a network that was in parts is whole from here on."""
        if self.learner.sharded:
            self.learner.be_whole(self._at_the_end)


def gathering(learner: Learner) -> pl.Callback:
    """What a rank without records does while rank 0's ``Checkpointer`` does its work: it gives its parts of the network."""

    class Gathering(pl.Callback):
        told_of_the_end = False

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            ledger = learner.ledger
            if not ledger.divergence and ledger.validated_at == ledger.steps_done and self._told():
                learner.network_state(learner.judged)

        def on_train_batch_end(
            self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if learner.ledger.steps_done < learner.horizon.total_steps and self._told():
                self._write()

        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.told_of_the_end = True
            self._write()
            learner.network_state()

        def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if not self.told_of_the_end:
                self.on_train_end(trainer, module)

        def _told(self) -> bool:
            assert learner.ranks is not None
            return learner.ranks.told(False, next(learner.model.parameters()).device)

        def _write(self) -> None:
            if learner.ledger.divergence is None:
                learner.training_state()

    return Gathering()


class _Rhythm:
    """When checkpoints are due while training.

    Args:
        seconds: between two; 0 for none by time.
        steps: between two; 0 for none by steps.
        share: of the time that writing may take.
        step: that of the last one.
    """

    def __init__(self, seconds: float, steps: int, share: float, step: int) -> None:
        self.seconds = seconds
        self.steps = steps
        self._step = step
        self.share = share
        self.took = 0.0
        """Seconds of the last writing."""
        self._since = time.monotonic()
        self._found = False

    def due(self, step: int) -> bool:
        """Whether one is due after ``step`` steps. Whoever asks at the same step is told the same."""
        if step == self._step and self._found:
            return True
        by_time = self.seconds and time.monotonic() - self._since > max(self.seconds, self.took / self.share)
        by_steps = self.steps and step // self.steps > self._step // self.steps
        if not (by_time or by_steps):
            return False
        self._step, self._since, self._found = step, time.monotonic(), True
        return True


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["val/accuracy"], -metrics["val/loss"]


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, those that share memory (tied weights) copied: safetensors refuses them together."""
    apart: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        apart[name] = whole.clone() if whole.data_ptr() in seen else whole
        seen.add(whole.data_ptr())
    return apart


def _digest(state: dict[str, Any]) -> str:
    # Through JSON first: what is read back has texts for keys and lists for tuples, and must have the same digest.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(state)), sort_keys=True).encode()).hexdigest()


def _write_to_disk(path: Path, content: bytes) -> None:
    with room_for(path, len(content)), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
