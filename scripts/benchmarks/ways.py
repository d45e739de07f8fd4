"""Ways to train one workload: gradlab's, a loop by hand, Lightning as its tutorials have it, and the machine's own limits.

All train the network that gradlab builds, initialised alike, on the same images in batches of the same size, with torch's optimizer
of the same name, and count loss and right answers as a progress line would tell them:

* ``gradlab``: ``Trainer.fit`` from gradlab's own pieces, journal included; ``gradlab max`` and so on with that ``trainer.speed``.
* ``loop``: a loop by hand as tutorials write it, on tensors that are on the device already: an index select for each batch,
  normalised (and cropped and flipped, for a whole batch at once) there.
* ``tuned loop``: the same with what gradlab uses too: a fused optimizer, channels-last convolutions.
* ``compiled loop``: the tuned loop's network in ``torch.compile``; on a GPU with CUDA graphs.
* ``Lightning``: its Trainer as it comes (progress bar, logger, checkpoints), a DataLoader over torchvision's transforms, no workers;
  ``Lightning, workers`` with a worker for each core.
* ``products``: square matrix products, the machine's rate of multiply-adds in the workload's precision; a "step" is one.
* ``copies``: copies of a buffer as large as what a step must touch, the machine's bandwidth there; a "step" is one.
"""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gradlab.lightning import pl  # before torch is imported by anybody else

from torch.nn import functional as F  # isort: skip
import numpy as np
import torch

from benchmarks.turns import Baton
from benchmarks.workloads import Workload
from gradlab import environment
from gradlab.config import Config
from gradlab.data.datasets.base import Splits
from gradlab.prepare import choose_speed, image_data, lightning_trainer, prepare, prepare_network
from gradlab.tracking.journal import Journal

PRODUCT = 1024
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(way: str, connection: Connection, workload: Workload, data: Path) -> None:
    """Train ``workload`` by ``way``, in turns, without end."""
    baton = Baton(connection, torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None)
    name, _, more = way.partition(" ")
    speed = [f"trainer.speed={more}"] if name == "gradlab" and more else []
    config = workload.config(data, *speed)
    if way in ("products", "copies"):
        {"products": products, "copies": copies}[way](baton, config)
    splits = config.data.load()
    if name == "gradlab":
        gradlab(baton, config, splits)
    elif name == "Lightning,":
        lightning(baton, config, splits, workers=len(os.sched_getaffinity(0)))
    elif name == "Lightning":
        lightning(baton, config, splits, workers=0)
    else:
        loop(baton, config, splits, tuned=name != "loop", compiled=name == "compiled")


class _Turns(pl.Callback):
    """Passes the baton after Lightning's batches, each of which makes ``steps`` optimizer steps."""

    def __init__(self, baton: Baton, steps: Callable[[Any], int]) -> None:
        self.baton, self.steps = baton, steps

    def on_train_start(self, *_: Any) -> None:
        self.baton.wait()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.baton.passed(self.steps(batch))


def gradlab(baton: Baton, config: Config, splits: Splits) -> None:
    from gradlab.classifier import Classifier

    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare([config], splits, [Journal(Path(folder) / "journal.jsonl")])
        trainer = lightning_trainer(config, [_Turns(baton, len)])
        prepared.data.place(trainer.strategy.root_device)
        module = Classifier(prepared.learners[0])
        device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else environment.processor()
        speed, module.compiled = choose_speed(config, prepared, trainer, device, None)
        if config.trainer.speed == "max" and module.compiled is None:
            raise RuntimeError(speed.line)
        trainer.fit(module, datamodule=prepared.data)


def threads_of(config: Config) -> int:
    """As many as gradlab takes for this workload."""
    from gradlab.models.base import build_network
    from gradlab.models.trace import trace

    work = trace(build_network(config.model, config.spec, 0), config.spec.image_shape)[0].multiply_adds
    return config.trainer.cpu_threads(config.batch_examples * work)


def network(config: Config, splits: Splits) -> torch.nn.Module:
    torch.manual_seed(config.seed)
    return prepare_network(config, splits, image_data([config], splits)).to(DEVICE)


def torch_optimizer(config: Config, model: torch.nn.Module, fused: bool | None) -> torch.optim.Optimizer:
    """torch's own, over what learns."""
    chosen: Any = config.optimizer
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if chosen.name == "adam":
        return torch.optim.Adam(weights, lr=chosen.lr, fused=fused)
    momentum = {} if chosen.name == "sgd" else {"momentum": chosen.momentum, "nesterov": True}
    return torch.optim.SGD(weights, lr=chosen.lr, fused=fused, **momentum)


def autocast(config: Config) -> Any:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=config.trainer.precision == "bf16")


def cropped_and_flipped(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """Each image shifted by up to ``padding`` pixels and mirrored or not: floats [batch, channels, height, width]."""
    count, channels, height, width = images.shape
    rows = torch.randint(0, 2 * padding + 1, (count, 1), device=DEVICE) + torch.arange(height, device=DEVICE)
    columns = torch.randint(0, 2 * padding + 1, (count, 1), device=DEVICE) + torch.arange(width, device=DEVICE)
    mirrored = torch.rand(count, 1, device=DEVICE) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    picked = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    return picked.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def loop(baton: Baton, config: Config, splits: Splits, *, tuned: bool, compiled: bool) -> None:
    torch.set_num_threads(threads_of(config))
    if DEVICE.type == "cuda" and tuned:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    model = network(config, splits)
    if tuned:
        model.to(memory_format=torch.channels_last)
    optimizer = torch_optimizer(config, model, fused=True if tuned else None)
    forward: Any = (
        torch.compile(model, mode="reduce-overhead" if DEVICE.type == "cuda" else None) if compiled else model
    )
    images, labels = torch.from_numpy(splits.train.images).to(DEVICE), torch.from_numpy(splits.train.labels).to(DEVICE)
    mean, std = (images.float().mean((0, 2, 3), keepdim=True)[0], images.float().std((0, 2, 3), keepdim=True)[0])
    std = torch.where(std > 0, std, torch.ones_like(std))
    augments, size = bool(config.augment), config.batch_examples
    loss_sum, correct = torch.zeros((), device=DEVICE), torch.zeros((), device=DEVICE)
    baton.wait()
    while True:
        for batch in torch.randperm(len(labels)).to(DEVICE).split(size):
            if compiled and len(batch) < size:
                continue  # it would be compiled again for the epoch's last batch
            target = labels[batch]
            floats = (images[batch].float() - mean) / std
            with autocast(config):
                logits = forward(cropped_and_flipped(floats) if augments else floats)
                loss = F.cross_entropy(logits.float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.argmax(1) == target).sum()
            baton.passed(1)


class _Arrays(torch.utils.data.Dataset[tuple[Any, int]]):
    """Decoded images, handed to torchvision's transforms one by one, as ``torchvision.datasets.CIFAR10`` does."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], transform: Any) -> None:
        self.images = images.transpose(0, 2, 3, 1)
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        image = self.images[index]
        return self.transform(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)), self.labels[index]


class _Stock(pl.LightningModule):
    """A classifier as Lightning's tutorials write it."""

    def __init__(self, model: torch.nn.Module, config: Config) -> None:
        super().__init__()
        self.model, self.config = model, config

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch_optimizer(self.config, self.model, None)


def lightning(baton: Baton, config: Config, splits: Splits, workers: int) -> None:
    from torchvision import transforms

    torch.set_num_threads(threads_of(config))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - the progress bar is drawn, and nobody looks
    bytes_ = splits.train.images.astype(np.float64) / 255
    steps: list[Any] = (
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if config.augment else []
    )
    steps += [
        transforms.ToTensor(),
        transforms.Normalize(bytes_.mean((0, 2, 3)).tolist(), bytes_.std((0, 2, 3)).tolist()),
    ]
    loader = torch.utils.data.DataLoader(
        _Arrays(splits.train.images, splits.train.labels, transforms.Compose(steps)),
        batch_size=config.batch_examples,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=-1,
            default_root_dir=folder,
            callbacks=[_Turns(baton, lambda _: 1)],
            precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}[config.trainer.precision],  # type: ignore[arg-type]
        )
        trainer.fit(_Stock(network(config, splits), config), loader)


def products(baton: Baton, config: Config) -> None:
    """Matrix products with all cores, in the workload's precision: ``PRODUCT``³ multiply-adds each."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = True
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[config.trainer.precision]
    side = PRODUCT if DEVICE.type == "cpu" else 8 * PRODUCT
    left, right = (
        torch.randn(side, side, dtype=dtype, device=DEVICE),
        torch.randn(side, side, dtype=dtype, device=DEVICE),
    )
    out = torch.empty_like(left)
    baton.wait()
    while True:
        torch.mm(left, right, out=out)
        baton.passed((side // PRODUCT) ** 3)


def touched(config: Config) -> tuple[int, int]:
    """Multiply-adds of a step, and the bytes that it must read or write, whatever is fused.

    Three passes over every multiply-add: forward, and backward for inputs and for weights. Bytes: the stored images; each weight read
    forward and backward, written with its optimizer's state, which is read too, and its gradient written and read; each layer's
    output written and read forward and backward.
    """
    from gradlab.models.base import build_network
    from gradlab.models.trace import trace

    model = build_network(config.model, config.spec, 0)
    calls = trace(model, config.spec.image_shape)
    width = 2 if config.trainer.precision == "bf16" else 4
    weights = sum(weight.numel() for weight in model.parameters())
    states = {"adam": 2, "nesterov": 1}.get(config.optimizer.name, 0)
    outputs = sum(int(np.prod(call.shape)) for call in calls if call.leaf and call.layer is not None)
    batch = config.batch_examples
    moved = (
        batch * int(np.prod(config.spec.image_shape))
        + 4 * weights * (2 + 1 + 2 * states + 2)
        + 4 * width * batch * outputs
    )
    return 3 * batch * calls[0].multiply_adds, moved


def copies(baton: Baton, config: Config) -> None:
    """Copies with all cores, of a buffer so large that reading and writing it moves what a step must."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    count = max(1024, min(touched(config)[1], 2**30) // 8)
    source, target = torch.ones(count, device=DEVICE), torch.empty(count, device=DEVICE)
    baton.wait()
    while True:
        target.copy_(source)
        baton.passed(1)
