"""What a training needs, ready to be fitted: the network with its optimizer, the images, Lightning's Trainer."""

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlab.config import Config
from gradlab.data.cache import key_of
from gradlab.errors import ConfigError
from gradlab.models.trial import last_batch, try_network
from gradlab.optimizers.timm import Timm
from gradlab.tracking.journal import Journal

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gradlab.compiled import CompiledStep
    from gradlab.data.datasets.base import Splits
    from gradlab.data.module import ImageData
    from gradlab.devices.ranks import Ranks
    from gradlab.learner import Learner
    from gradlab.lightning import pl
    from gradlab.models.trace import Call
    from gradlab.rehearsal import Rehearsal
    from gradlab.speed import Memory as SpeedMemory
    from gradlab.speed import Speed, Work

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}


def check_device_and_libraries(config: Config) -> None:
    """What only torch, timm or the network itself can tell, before anything of the run is made.

    Raises:
        ConfigError: CUDA was asked for and does not work, timm refuses its optimizer, or the network does not fit.
    """
    if config.trainer.name == "cuda":
        _require_cuda()
    if config.trainer.devices > 1:
        _require_devices(config)
    if isinstance(config.optimizer, Timm):
        config.optimizer.check_in_timm()
    _try_network(config)


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        built = (
            f"torch {torch.__version__} was built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else "this torch has no CUDA"
        )
        raise ConfigError(
            f"trainer=cuda was asked for, and torch finds no CUDA device ({built}). Check the driver with nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or choose trainer=auto."
        )


def _require_devices(config: Config) -> None:
    import torch

    if config.trainer.name == "cpu" or not torch.cuda.is_available():
        return
    if (found := torch.cuda.device_count()) < config.trainer.devices:
        raise ConfigError(
            f"trainer.devices={config.trainer.devices} was asked for, and torch finds {found} CUDA "
            f"device{'s' if found != 1 else ''}. Check CUDA_VISIBLE_DEVICES."
        )


@dataclass(frozen=True)
class Prepared:
    """What a training needs, ready to be fitted.

    learners: one for each run.
    data: the images of all.
    threads: what torch was pinned to.
    calls: the trace of the network.
    """

    learners: "list[Learner]"
    data: "ImageData"
    threads: int
    calls: "list[Call]"


def prepare(
    configs: Sequence[Config],
    splits: "Splits",
    journals: Sequence[Journal],
    first_step: int = 0,
    threads: int | None = None,
) -> Prepared:
    """The networks, initialised, with their optimizers and schedules, and the images; seeds and threads of torch are set.

    Several configurations differ in nothing but what ``population.py`` holds side by side. Where a training is gone on with,
    its next step is ``first_step``, counted from 0, and it keeps the number of ``threads`` that it had.
    """
    import torch

    from gradlab.allocator import keep_freed_memory
    from gradlab.models.trace import trace
    from gradlab.seeds import derive

    keep_freed_memory()
    first = configs[0]
    torch.manual_seed(derive(first.seed, "forward"))
    data = image_data(configs, splits)
    data.first_step = first_step
    models = [prepare_network(config, splits, data) for config in configs]
    calls = trace(models[0], first.spec.image_shape)
    pass_examples = -(-first.batch_examples // first.trainer.accumulate)
    threads = threads or first.trainer.cpu_threads(pass_examples * calls[0].multiply_adds)
    torch.set_num_threads(threads)
    learners = [
        prepare_learner(config, splits, model, journal)
        for config, model, journal in zip(configs, models, journals, strict=True)
    ]
    return Prepared(learners, data, threads, calls)


def prepare_network(config: Config, splits: "Splits", data: "ImageData") -> "nn.Module":
    """The network of a run, initialised."""
    from gradlab.data.sample import sample
    from gradlab.initializers import DataDependent, initialize
    from gradlab.models.base import PREPARATION_IMAGES, StartsFromImages, build_network

    model = build_network(config.model, config.spec, config.seed)
    initialize(model, config.init, config.seed)
    if isinstance(model, StartsFromImages):
        model.start_from_images(sample(splits, data.normalization, PREPARATION_IMAGES).images)
    if isinstance(config.init, DataDependent):
        config.init.calibrate(model, sample(splits, data.normalization, config.init.images).images)
    return model


def prepare_learner(config: Config, splits: "Splits", model: "nn.Module", journal: Journal) -> "Learner":
    """What trains ``model``."""
    import torch

    from gradlab.data.balance import balanced_weights
    from gradlab.learner import Learner

    if any(parameter.dim() == 4 for parameter in model.parameters()):
        model = model.to(memory_format=torch.channels_last)
    weights = None
    if config.data.class_weights == "balanced":
        weights = torch.from_numpy(balanced_weights(splits.train, config.spec.classes)).to(_dtype(config))
    return Learner(
        model,
        config.loss,
        config.optimizer,
        config.schedule,
        config.horizon,
        journal,
        log_steps=config.trainer.steps("log_every", config.horizon),
        param_groups=config.param_groups,
        wrapper=config.wrapper,
        averaging=config.averaging,
        clip_norm=config.trainer.clip_norm,
        clip_value=config.trainer.clip_value,
        accumulate=config.trainer.accumulate,
        views=config.trainer.views,
        class_weights=weights,
    )


@dataclass(frozen=True)
class Stepping:
    """What decides which steps a run takes.

    work: of a step.
    key: see ``compiled.CompiledStep``.
    memory: of this machine, for such steps.
    rehearse: gives what tries them out.
    """

    work: "Work"
    key: str
    memory: "SpeedMemory"
    rehearse: "Callable[[], Rehearsal]"


def stepping(config: Config, prepared: Prepared, trainer: "pl.Trainer", device: str) -> Stepping:
    """Of a run whose images are on their device.

    Args:
        config: of the run.
        prepared: for it alone.
        trainer: Lightning's, which will train it.
        device: in words.
    """
    import torch

    from gradlab.cpu.choice import share_of
    from gradlab.speed import Memory, Work

    (learner,), size, calls = prepared.learners, config.batch_examples, prepared.calls
    leaves = [call for call in calls if call.leaf]
    convolutions = any(parameter.dim() == 4 for parameter in learner.model.parameters())
    like = torch.empty(0, dtype=_dtype(config), device=trainer.strategy.root_device)
    ours = 0.0 if config.trainer.precision == "bf16" else share_of(calls, like)
    work = Work(len(leaves), size * calls[0].multiply_adds, convolutions, prepared.threads, ours)
    key = key_of(_of_the_step(config))

    def rehearse() -> "Rehearsal":
        from gradlab.rehearsal import Rehearsal

        context = trainer.strategy.precision_plugin.train_step_context
        return Rehearsal(learner, prepared.data, key, size, like, context)

    return Stepping(work, key, Memory(key, prepared.threads, device), rehearse)


def choose_speed(
    config: Config, prepared: Prepared, trainer: "pl.Trainer", device: str, kept: str | None
) -> "tuple[Speed, Callable[[Learner], CompiledStep] | None]":
    """Which steps a run takes, and what makes the compiled ones.

    Args:
        config, prepared, trainer, device: see ``stepping``.
        kept: see ``speed.choose``.
    """
    from gradlab.speed import COMPILED, EAGER, Speed, choose

    if config.trainer.devices > 1:
        alone = f"eager steps: with trainer.devices={config.trainer.devices} none are compiled"
        return Speed(EAGER, "" if config.trainer.speed == "safe" else alone), None
    own = stepping(config, prepared, trainer, device)
    captures = trainer.strategy.root_device.type == "cuda"
    steps = config.horizon.total_steps
    speed = choose(config.trainer.speed, kept, steps, own.work, own.rehearse, own.memory, captures)
    if speed.steps == EAGER:
        return speed, None
    from gradlab.compiled import CompiledStep

    compiles = speed.steps == COMPILED
    return speed, functools.partial(CompiledStep, key=own.key, batch_size=config.batch_examples, compiles=compiles)


def _of_the_step(config: Config) -> list[object]:
    """What decides the operations of an optimizer step and their shapes; numbers that enter them as tensors are left out."""
    trainer = config.trainer
    clipped = trainer.clip_norm is not None, trainer.clip_value is not None
    mixed = any(augmentation.mixes for augmentation in config.augment)
    parts = [config.model, config.spec.image_shape, config.spec.classes, config.batch_examples, config.loss]
    parts += [config.data.class_weights, config.optimizer_name, config.param_groups, config.wrapper.name]
    return [*map(repr, parts), clipped, mixed, trainer.precision, trainer.accumulate, trainer.deterministic]


def image_data(configs: Sequence[Config], splits: "Splits") -> "ImageData":
    """The images of a run, or of several that differ in their seeds at most; not yet on a device."""
    from gradlab.data.module import ImageData

    config = configs[0]
    return ImageData(
        splits,
        batch_size=config.batch_examples,
        seeds=list(dict.fromkeys(each.seed for each in configs)),
        horizon=config.horizon,
        round_steps=config.trainer.steps("validate_every", config.horizon),
        dtype=_dtype(config),
        augmentations=config.augment,
        normalization=config.data.normalization,
        stop_every=config.trainer.probe_steps(config.horizon),
    )


def _dtype(config: Config) -> "torch.dtype":
    import torch

    return torch.float64 if config.trainer.precision == "fp64" else torch.float32


def _try_network(config: Config) -> None:
    """Where only the network can tell whether it fits, ask it before a folder is made; torch is imported for these few only."""
    single = config.batch_examples == 1 or (
        last_batch(config.spec.train_examples, config.batch_examples) == 1
        and config.horizon.total_steps >= config.horizon.steps_per_epoch
    )
    if single or getattr(config.model, "must_be_tried", False):
        try_network(config.model, config.spec, config.batch_examples)


def lightning_trainer(
    config: Config,
    callbacks: "list[pl.Callback]",
    first_step: int = 0,
    validate_first: bool = False,
    ranks: "Ranks | None" = None,
) -> "pl.Trainer":
    """Lightning's Trainer for a run: quiet, and no logging or checkpointing but ours.

    Args:
        config: of the run.
        callbacks: all of them.
        first_step: the optimizer step at which the training begins, counted from 0.
        validate_first: validate before it.
        ranks: the devices that train it together; None for one device.
    """
    round_steps = config.trainer.steps("validate_every", config.horizon)
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    from gradlab.lightning import pl

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ours are not DataLoaders: batches are made on the device, without workers.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # one process, also where SLURM is installed
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*", FutureWarning)  # Lightning 2.6.6 on torch 2.15
    trainer = pl.Trainer(
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.trainer.name],
        devices=1 if ranks is None else ranks.size,
        strategy="auto" if ranks is None else ranks.strategy(),
        use_distributed_sampler=False,
        precision=PRECISIONS[config.trainer.precision],  # type: ignore[arg-type]
        plugins=[LightningEnvironment()] if ranks is None else [],  # one process, also inside a SLURM job
        deterministic=config.trainer.deterministic or None,
        # Of a GPU: the fastest of cuDNN's algorithms for these shapes, found by trying them.
        benchmark=not config.trainer.deterministic,
        # An epoch of Lightning's is one pass of the loader: a round, the steps up to the next validation.
        # A training that is gone on with within a round begins with what is left of that.
        max_epochs=-(-config.horizon.total_steps // round_steps) - first_step // round_steps
        if first_step < config.horizon.total_steps
        else 0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        # What Lightning calls a sanity check is a validation before the first step.
        num_sanity_val_steps=-1 if validate_first else 0,
    )
    if trainer.strategy.root_device.type == "cuda":
        import torch

        # TF32 for matrix products, as cuDNN has it for convolutions: three digits of a factor, sums in float32.
        torch.set_float32_matmul_precision("highest" if config.trainer.deterministic else "high")
    return trainer
