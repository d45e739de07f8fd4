"""A training small enough to be compared, step by step, with one written out by hand; and the choices of configs/."""

import functools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from gradlab.classifier import Classifier
from gradlab.config import AXES
from gradlab.data.datasets.base import Examples, Splits
from gradlab.data.device import Batch, DeviceImages, Normalization, Preparation, TrainingChunks
from gradlab.data.module import ImageData
from gradlab.durations import Horizon
from gradlab.learner import Learner
from gradlab.lightning import pl
from gradlab.tracking.journal import Journal, metric_rows

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BATCH, EPOCH = 8, 5  # images to a step, and steps to an epoch: 37 images, so the last batch has 5


def choice(axis: str, name: str, **changes: Any) -> Any:
    """The choice ``name`` of ``axis`` with the numbers of its file, but for ``changes``."""
    values = OmegaConf.to_container(OmegaConf.load(CONFIGS / axis / f"{name}.yaml"))
    assert isinstance(values, dict)
    return AXES[axis][name](**{**values, **changes})


@functools.cache
def splits() -> Splits:
    """Three classes of 4×4 images, each bright in a row of its own, with noise."""

    def draw(count: int, seed: int) -> Examples:
        random = np.random.default_rng(seed)
        labels = random.integers(0, 3, count)
        images = random.integers(0, 120, (count, 1, 4, 4))
        images[np.arange(count), 0, labels] += 100
        return Examples(images.astype(np.uint8), labels.astype(np.int64))

    return Splits(draw(37, 0), draw(20, 1), draw(20, 2), "tiny")


def mlp(seed: int = 0) -> nn.Module:
    """Two layers, in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def normed(seed: int = 0) -> nn.Module:
    """A convolution, BatchNorm, dropout and a linear layer, in float64."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(16, 3)).double()


def batches(steps: int) -> list[Batch]:
    """The mini-batches of the first ``steps`` optimizer steps of every training here."""
    data, device = splits(), torch.device("cpu")
    preparation = Preparation(Normalization.of(data.train), device, torch.float64)
    chunks = TrainingChunks(DeviceImages(data.train, device), preparation, BATCH, 0, Horizon(steps, EPOCH), steps)
    return [batch for chunk in chunks for batch in chunk]


def classifier(model: nn.Module, optimizer: Any, steps: int, journal: Journal, **features: Any) -> Classifier:
    """A ``Classifier`` over ``model`` that has the plain cross-entropy and a constant rate, but for ``features``."""
    usual: dict[str, Any] = {
        "loss": choice("loss", "cross_entropy"),
        "schedule": choice("schedule", "constant", warmup="0"),
        "horizon": Horizon(steps, EPOCH),
        "log_steps": 1,
    }
    return Classifier(Learner(model, optimizer=optimizer, journal=journal, **(usual | features)))


class From(pl.Callback):
    """Begins a training where another one stopped."""

    def __init__(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        self.step, self.tensors, self.state = step, tensors, state

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        module.learner.load_training_state(self.tensors, self.state)


def fit(
    model: nn.Module,
    optimizer: Any,
    steps: int,
    *,
    stop_at: int | None = None,
    go_on: From | None = None,
    round_steps: int = EPOCH,
    callbacks: list[pl.Callback] | None = None,
    of_learner: Sequence[Callable[[Learner], pl.Callback]] = (),
    then: Callable[[Classifier, pl.Trainer, ImageData], None] | None = None,
    **features: Any,
) -> tuple[Classifier, list[tuple[int, dict[str, float]]]]:
    """Train ``model`` for ``steps`` by Lightning, up to ``stop_at``; the classifier, and the metric rows of its journal."""
    data = ImageData(
        splits(),
        batch_size=BATCH,
        seeds=[0],
        horizon=Horizon(steps, EPOCH),
        round_steps=round_steps,
        dtype=next(model.parameters()).dtype,
    )
    data.first_step = go_on.step if go_on else 0
    rounds = -(-((stop_at or steps) - data.first_step) // round_steps)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # where SLURM is installed
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*", FutureWarning)
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        try:
            module = classifier(model, optimizer, steps, journal, **features)
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=rounds,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                callbacks=[
                    *(callbacks or []),
                    *(make(module.learner) for make in of_learner),
                    *([go_on] if go_on else []),
                ],
            )
            torch.manual_seed(0)
            trainer.fit(module, datamodule=data)
            if then:
                then(module, trainer, data)
        finally:
            journal.close()
        rows = list(metric_rows(Path(folder) / "journal.jsonl"))
    return module, rows


def weights(model: nn.Module) -> torch.Tensor:
    """All parameters and buffers as one vector."""
    return torch.cat([tensor.detach().double().flatten() for tensor in model.state_dict().values()])
