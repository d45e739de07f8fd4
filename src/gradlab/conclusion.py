"""How one run of a training ends: its status, the numbers that sum it up, its result and its figures."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gradlab.checkpoints import Checkpointer
from gradlab.data.datasets.base import Splits
from gradlab.data.module import ImageData
from gradlab.interruption import Interruption
from gradlab.learner import Learner
from gradlab.record import RunRecord

if TYPE_CHECKING:
    from gradlab.models.trace import Call


@dataclass
class Ending:
    """One run while it is trained, and what its end needs.

    run, learner, checkpointer: its own.
    splits, data, calls: the images, and the trace of the network.
    interruption: how it may be ended early.
    runs: that are trained at once, this one included.
    began, ready: when the process began the run and its training, by ``time.perf_counter``.
    """

    run: RunRecord
    learner: Learner
    checkpointer: Checkpointer
    splits: Splits
    data: ImageData
    calls: "list[Call]"
    interruption: Interruption
    runs: int
    began: float
    ready: float = field(default=0.0)

    def status(self) -> str:
        """How its training ended. One that a sweep gave up at its last step has finished all the same."""
        learner = self.learner
        if learner.ledger.divergence:
            return "diverged"
        if learner.ledger.steps_done < learner.horizon.total_steps and learner.point in self.interruption.pruned:
            return "pruned"
        return "killed" if self.interruption() else "finished"

    def leave(self) -> None:
        """The run is over while others of its population train on: its checkpoint and all the rest, now."""
        self.checkpointer.write()
        self.checkpointer.over = True
        self.conclude(self.status())

    def conclude(self, status: str) -> None:
        """Write the result, then what is only there to be looked at; the run's record is closed."""
        run, learner = self.run, self.learner
        now = time.perf_counter()
        seconds = {
            "until_training": self.ready - self.began,
            "training_steps": learner.ledger.training_seconds,
            "training_and_test": (now - self.ready) / self.runs,
            "total": (now - self.began) / self.runs,
        }
        reason = self.interruption.pruned[run.point] if run.point and status == "pruned" else None
        run.conclude(learner, status, self._summary(), seconds, reason)
        if run.folder.layer_states.exists():
            run.journal.artifact(run.folder.layer_states, "model")
        if run.config.plots:
            self._draw()
        if self.checkpointer.best:
            run.journal.artifact(run.folder.checkpoints / "best", "checkpoints/best")
        run.close(learner)

    def _summary(self) -> dict[str, float]:
        ledger, checkpointer = self.learner.ledger, self.checkpointer
        metrics = dict(ledger.test_metrics)
        if checkpointer.best:
            metrics |= {"best/val_accuracy": checkpointer.best["val/accuracy"], "best/step": checkpointer.best_step}
        if ledger.last_round and not ledger.divergence:
            metrics["final/train_loss"] = ledger.last_round["train/loss"]
        return metrics

    def _draw(self) -> None:
        """The figures of the run."""
        from gradlab.analysis.figures import draw_run
        from gradlab.analysis.network_diagram import draw_network

        config, folder = self.run.config, self.run.folder
        draw_run(folder, config.spec, self.splits, self.learner, self.data.normalization)
        about = f"{getattr(config.model, 'arch', config.model.name)} on {config.data.name}"
        one = self.splits.test.at(np.zeros(1, np.int64))[0]
        draw_network(folder.plots / "network.png", self.calls, one, about, config.loss.name.replace("_", " "))
        if folder.layer_states.exists():
            from gradlab.analysis.layers_figure import layers_figure
            from gradlab.probe import read_states

            layers_figure(read_states(folder.layer_states)).savefig(folder.plots / "layers.png", dpi=110)
        if config.augment:
            from gradlab.analysis.augmented import draw_augmented

            draw_augmented(folder, config.spec, self.splits.train, self.data.augmenter("cpu"))
        self.run.journal.artifact(folder.plots, "plots")
