"""The training of ``experiment=cifar10_speed`` as a script of plain torch, to set beside it: the same network, target and number of steps.

    PYTHONPATH=scripts .venv/bin/python -m benchmarks.cifar_by_hand --seeds 20 data=image_folder data.root=cifar10-jpeg.tar.xz

As airbench94 does it (Jordan, 2024, https://arxiv.org/abs/2404.00498): all images of an epoch are cropped and mirrored at once, the
network is in channels-last order under bfloat16's autocast, torch's SGD is a fused one, and batches are full ones. gradlab builds the
network, whitens its first layer and reads the files; nothing else is gradlab's. Arguments are further overrides of the experiment.

``--compiled``: the network in ``torch.compile``, on a GPU with CUDA graphs. A first training warms up and is not counted. Prints JSON:
each seed's seconds from the first step to the last, GPU included, and its test accuracy by the experiment's six views.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from gradlab.lightning import pl  # noqa: F401 - before torch is imported by anybody else

from torch.nn import functional as F  # isort: skip
import torch

from benchmarks.ways import DEVICE, autocast, network
from benchmarks.workloads import compose
from gradlab import environment
from gradlab.config import Config
from gradlab.data.datasets.base import Splits
from gradlab.views import answers


def normalised(images: Any, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    floats = (torch.from_numpy(images).to(DEVICE).float() - mean) / std
    return floats.to(memory_format=torch.channels_last)


def cropped(images: torch.Tensor, padding: int) -> torch.Tensor:
    """Each image moved by up to ``padding`` pixels, a mirror beyond its border: one masked copy for each of the positions."""
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    side, moves = images.shape[-1], 2 * padding + 1
    position = torch.randint(0, moves * moves, (len(images),), device=DEVICE)
    out = torch.empty_like(images)
    for number in range(moves * moves):
        down, right = divmod(number, moves)
        chosen = position == number
        out[chosen] = padded[chosen, :, down : down + side, right : right + side]
    return out


def train(
    config: Config, splits: Splits, seed: int, forward: Any, model: torch.nn.Module, start: dict[str, Any]
) -> dict[str, float]:
    """One training from ``start``: its seconds and its accuracy."""
    chosen: Any = config
    torch.manual_seed(seed)
    model.load_state_dict(start)
    model.train()
    pixels = splits.train.images.astype("float32")
    mean, std = (
        torch.tensor(each, device=DEVICE).view(1, -1, 1, 1) for each in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)))
    )
    images, labels = normalised(splits.train.images, mean, std), torch.from_numpy(splits.train.labels).to(DEVICE)
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    fast: list[torch.nn.Parameter] = [layer.bias for layer in norms if layer.bias is not None]
    others = [
        weight for weight in model.parameters() if weight.requires_grad and not any(weight is bias for bias in fast)
    ]
    own = chosen.optimizer
    groups = [{"params": fast, "lr": own.lr * config.param_groups.scale, "weight_decay": 0.0}, {"params": others}]  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(
        groups,
        lr=own.lr,
        momentum=own.momentum,
        weight_decay=own.weight_decay,
        nesterov=True,
        fused=DEVICE.type == "cuda",
    )
    factors = [config.schedule.factor(step, config.horizon) for step in range(config.horizon.total_steps)]
    rates = [group["lr"] for group in optimizer.param_groups]
    size, padding = config.batch_examples, chosen.augment[0].padding
    assert size <= len(labels)
    step, mirrored = 0, torch.rand(len(images), device=DEVICE) < 0.5
    _wait()
    began = time.perf_counter()
    while step < len(factors):
        shown = cropped(images, padding)
        shown = torch.where(mirrored[:, None, None, None], shown.flip(3), shown)
        mirrored = ~mirrored
        for batch in torch.randperm(len(images), device=DEVICE).split(size):
            if step == len(factors) or len(batch) < size:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factors[step]
            with autocast(config):
                logits = forward(shown[batch])
            loss = F.cross_entropy(logits.float(), labels[batch], label_smoothing=chosen.loss.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    _wait()
    seconds = time.perf_counter() - began
    model.eval()
    test, right = normalised(splits.test.images, mean, std), 0
    with torch.no_grad(), autocast(config):
        for first in range(0, len(test), 2_000):
            told = answers(model, test[first : first + 2_000], config.trainer.views)
            right += int((told.argmax(1).cpu() == torch.from_numpy(splits.test.labels[first : first + 2_000])).sum())
    return {"seconds": seconds, "test_accuracy": right / len(test)}


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="trainings that count (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="the network in torch.compile")
    parser.add_argument("--into", type=Path, help="a file for the JSON")
    parser.add_argument("overrides", nargs="*", help="of experiment=cifar10_speed, such as data.root=…")
    parsed = parser.parse_args()
    config = compose(["experiment=cifar10_speed", *parsed.overrides])
    splits = config.data.load()
    if DEVICE.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    model = network(config, splits).to(memory_format=torch.channels_last)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode = "reduce-overhead" if DEVICE.type == "cuda" else None
    forward = torch.compile(model, mode=mode) if parsed.compiled else model
    runs = [train(config, splits, seed, forward, model, start) for seed in range(parsed.seeds + 1)][1:]
    told: dict[str, Any] = {
        "hardware": torch.cuda.get_device_name() if DEVICE.type == "cuda" else environment.processor(),
        "steps": config.horizon.total_steps,
        "compiled": parsed.compiled,
        "runs": runs,
    }
    for name in runs[0]:
        values = [run[name] for run in runs]
        told[name] = {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}
    text = json.dumps(told, indent=1)
    if parsed.into:
        parsed.into.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
