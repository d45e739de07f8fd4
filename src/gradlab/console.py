"""What a person sees in the terminal: progress while a run trains, and a table of results at its end."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from gradlab.classifier import Classifier
from gradlab.environment import relative
from gradlab.learner import Learner
from gradlab.lightning import pl

REFRESHES = 2
"""Drawings of the bar in a second. Each takes two milliseconds from the training, whose Python waits: ten would be 2 % of its time."""


class ProgressReport(pl.Callback):
    """A progress bar on a terminal that can draw one; elsewhere plain lines, ``rhythm`` seconds apart and at the end."""

    def __init__(self, console: Console, rhythm: float = 5.0) -> None:
        self.console = console
        self.rhythm = rhythm
        self._bar: Progress | None = None
        self._started = self._spoken = time.monotonic()
        self._spoken_step = -1
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        self._started = self._spoken = time.monotonic()
        self._first_step = module.learners[0].ledger.steps_done  # of a run that is gone on with
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._bar = Progress(
                BarColumn(bar_width=24), TextColumn("{task.description}"), console=self.console, transient=True,
                refresh_per_second=REFRESHES,
            )  # fmt: skip
            self._bar.start()
            self._bar.add_task("starting …", total=module.learners[0].horizon.total_steps)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._tell(module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._tell(module, last=True)
        if self._bar is not None:
            self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _tell(self, module: pl.LightningModule, last: bool = False) -> None:
        assert isinstance(module, Classifier)
        learner = max(module.learners, key=lambda each: each.ledger.steps_done)  # others have left, perhaps
        steps_done = learner.ledger.steps_done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=steps_done, description=self._line(learner))
        elif (last and steps_done != self._spoken_step) or time.monotonic() - self._spoken >= self.rhythm:
            self._spoken, self._spoken_step = time.monotonic(), steps_done
            self.console.print(self._line(learner), highlight=False, soft_wrap=True)

    def _line(self, learner: Learner) -> str:
        horizon, ledger = learner.horizon, learner.ledger
        total, done = horizon.total_steps, ledger.steps_done
        epoch = min(done / horizon.steps_per_epoch, horizon.epochs)
        parts = [f"step {done:,}/{total:,}", f"epoch {epoch:.1f}/{horizon.epochs:.3g}"]
        if ledger.last_chunk.images:
            rates = ledger.last_chunk.rates("train")
            parts += [f"loss {rates['train/loss']:.4g}", f"accuracy {rates['train/accuracy']:.1%}"]
        if ledger.last_val:
            parts.append(f"val {ledger.last_val['val/accuracy']:.1%}")
        if ledger.training_seconds:
            parts.append(f"{ledger.images_seen / ledger.training_seconds:,.0f} images/s")
        seconds = time.monotonic() - self._started
        parts.append(
            f"{_clock(seconds * (total - done) / max(done - self._first_step, 1))} left"
            if done < total
            else _clock(seconds)
        )
        return "  ".join(parts)


def print_results(console: Console, result: Mapping[str, Any], folder: Path, see: str | None, note: str | None) -> None:
    """The closing table of a run. ``see`` is the command that shows it in a browser, ``note`` what went wrong."""
    metrics, lines = result["metrics"], []
    status, diverged = result["status"], result["diverged"]
    if diverged:
        status = f"diverged at step {diverged['step']:,}, learning rate {diverged['lr']:.6g}: the loss was not finite"
    if status == "pruned":
        status = f"pruned at step {result['steps']:,} of {result['total_steps']:,}: {result['reason']}"
    lines.append(("status", status))
    if "test/accuracy" in metrics:
        lines.append(("test accuracy", f"{metrics['test/accuracy']:.2%}  (loss {metrics['test/loss']:.4f})"))
    if "best/val_accuracy" in metrics:
        lines.append(
            ("validation", f"{metrics['best/val_accuracy']:.2%}  at step {metrics['best/step']:,.0f}, the best")
        )
    if "final/train_loss" in metrics:
        lines.append(("training loss", f"{metrics['final/train_loss']:.4f}  at the end"))
    seconds = result["seconds"]
    lines.append(("time", f"{seconds['training_and_test']:.1f} s training and test, {seconds['total']:.1f} s in all"))
    if status == "killed":
        lines.append(("checkpoint", str(relative(folder / "checkpoints" / "last"))))
        if "point" not in result:  # of a sweep's run the sweep says it
            lines.append(("go on with it", f"python train.py {shlex.quote(f'resume={relative(folder)}')}"))
    lines.append(("folder", str(relative(folder))))
    if result.get("mlflow_run_id"):
        lines.append(("MLflow run", result["mlflow_run_id"]))
    if see:
        lines.append(("see it", see))
    console.print()
    for label, value in lines:
        # Lines, not a rich Table, which would cut paths; escaped, because names and paths are the user's.
        style = "bold" if label in ("test accuracy", "see it") else "default"
        console.print(f"[dim]{label:<15}[/dim][{style}]{escape(str(value))}[/{style}]", soft_wrap=True, highlight=False)
    if note:
        console.print(f"\n{note}", soft_wrap=True, highlight=False, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
