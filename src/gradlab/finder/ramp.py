"""One learning-rate range test (Smith, 2015, https://arxiv.org/abs/1506.01186): a training whose rate rises at every step.

It is an ordinary training of a network of its own, by ``Classifier`` and Lightning, whose schedule happens to be a ramp. So
precision, clipping, accumulation, augmentations, wrappers and devices are the run's, and nothing of the run is touched: there
is no state to put back.
"""

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gradlab.averaging import NoAveraging
from gradlab.classifier import Classifier
from gradlab.config import Config
from gradlab.durations import Horizon
from gradlab.finder.curve import exploded
from gradlab.interruption import Interrupted, Interruption
from gradlab.learner import Learner
from gradlab.lightning import pl
from gradlab.param_groups import build_optimizer
from gradlab.prepare import lightning_trainer, prepare
from gradlab.tracking.journal import Journal, records

if TYPE_CHECKING:
    from gradlab.data.datasets.base import Splits

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ramp:
    """A schedule that multiplies the rate by the same number at every step, from ``first`` to ``last`` (both > 0)."""

    name: str
    first: float
    last: float

    def check(self, horizon: Horizon) -> None:
        """Goes with any length."""

    def factor(self, step: int, horizon: Horizon) -> float:
        share = step / max(horizon.total_steps - 1, 1)
        return math.exp(math.log(self.first) * (1 - share) + math.log(self.last) * share)


@dataclass(frozen=True)
class RampRun:
    """What one ramp saw at each of its steps, float64 [steps].

    losses: the training loss of the mini-batch before the step; a last one that is not finite is where the ramp diverged.
    growth: the norm of all weights before the step, as a multiple of that at the start; NaN where they started at 0.
    normalised: whether the network has layers that normalise, to which the size of the weights before them does not matter.
    """

    losses: Floats
    growth: Floats
    normalised: bool


def ramp(
    config: Config,
    splits: "Splits",
    low: float,
    high: float,
    steps: int,
    seed: int,
    interruption: Interruption | None = None,
) -> RampRun:
    """Train a network of its own, from the initialisation of ``seed``, at rates from ``low`` to ``high`` in ``steps`` steps.

    It ends early where the loss explodes. Only what ``optimizer.lr`` sets is raised: parameter groups keep their proportions,
    and those with a rate of their own (the AdamW part of muon) keep that. torch's generators are left as they were.

    Raises:
        Interrupted: a signal asked for the end.
    """
    interruption = interruption or Interruption()
    length = f"{steps} steps"
    trainer_settings = dataclasses.replace(
        config.trainer,
        max_epochs=None,
        max_steps=steps,
        validate_every=length,
        log_every="1 steps",
        probe_every=None,
    )
    own = dataclasses.replace(
        config,
        schedule=Ramp("ramp", low / config.optimizer.lr, high / config.optimizer.lr),
        averaging=NoAveraging("none"),
        trainer=trainer_settings,
        seed=seed,
    )
    vars(own)["spec"] = config.spec  # known already; of a folder of pictures it costs a while
    cuda = list(range(torch.cuda.device_count())) if config.trainer.name != "cpu" else []
    with tempfile.TemporaryDirectory(prefix="gradlab-find-lr-") as folder, torch.random.fork_rng(cuda):
        journal = Journal(Path(folder) / "journal.jsonl")
        prepared = prepare([own], splits, [journal])
        (learner,) = prepared.learners
        watch = _Watch(journal.path, _own_rates(config, learner))
        try:
            trainer = lightning_trainer(own, [watch])
            trainer.limit_val_batches = 0
            trainer.fit(Classifier(learner, interruption), datamodule=prepared.data)
        finally:
            prepared.data.close()
            journal.close()
    if interruption.signum is not None:
        raise Interrupted(interruption.signum)
    losses = np.array(watch.losses)
    return RampRun(losses, watch.growth()[: len(losses)], _normalises(learner.model))


class _Watch(pl.Callback):
    """Reads the losses of a ramp from its journal, ends it where they explode, and holds rates that are not to rise."""

    def __init__(self, journal: Path, own_rates: Sequence[float | None]) -> None:
        self.losses: list[float] = []
        self._journal = journal
        self._own_rates = own_rates
        self._read = 0
        self._norms: list[torch.Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        optimizer: Any = module.optimizers(use_pl_optimizer=False)
        optimizer.register_step_pre_hook(self._hold)

    @torch.no_grad()
    def _hold(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._own_rates, strict=True):
            if rate is not None:
                group["lr"] = rate
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._norms.append(torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(weights)))))

    def growth(self) -> Floats:
        """The norm of all weights before each step, as a multiple of the first; NaN where that is 0."""
        norms = torch.stack(self._norms).double().cpu().numpy()
        return np.asarray(norms / norms[0] if norms[0] > 0 else np.full(len(norms), np.nan))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for record, offset in records(self._journal, self._read):
            self._read = offset
            self.losses.append(float(record["values"]["train/loss"]))
        if exploded(self.losses):
            trainer.should_stop = True


def _normalises(model: torch.nn.Module) -> bool:
    kinds = (torch.nn.modules.batchnorm._NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm)
    return any(isinstance(layer, kinds) for layer in model.modules())


def _own_rates(config: Config, learner: Learner) -> list[float | None]:
    """For each parameter group the rate that it has whatever ``optimizer.lr`` is; None where it follows that."""
    choice: Any = config.optimizer
    groups = [
        [group["base_lr"] for group in build_optimizer(given, learner.param_groups.of(learner.model)).param_groups]
        for given in (choice, dataclasses.replace(choice, lr=2 * choice.lr))
    ]
    return [one if one == other else None for one, other in zip(*groups, strict=True)]
