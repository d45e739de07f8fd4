"""Augmentations on a CUDA device: the same numbers, the same images to rounding, and no waiting. Not run where there is none."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml

from gradlab.data import draws
from gradlab.data.augment import AUGMENTATIONS
from gradlab.data.augmenter import Augmenter
from gradlab.data.device import Batch, Pick
from processes import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"),
]

INDICES = torch.arange(256)


def augmented(name: str, device: str) -> Iterator[Batch]:
    """Two epochs of the same noise."""
    numbers: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "augment" / f"{name}.yaml").read_text())
    made = Augmenter([AUGMENTATIONS[name](**numbers)], 0, torch.full((3,), 99.0), device, torch.float32)
    images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    indices = INDICES.to(device)
    batch = Batch(images.to(device), indices)
    for epoch in range(2):
        yield made(batch, Pick(epoch, indices))


def test_a_gpu_draws_the_bits_of_a_cpu() -> None:
    keys = draws.keys(0, "crop", 5)
    assert torch.equal(draws.draw(keys.cuda(), 3, INDICES.cuda()).cpu(), draws.draw(keys, 3, INDICES))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_a_gpu_augments_as_a_cpu_does(name: str) -> None:
    for here, there in zip(augmented(name, "cpu"), augmented(name, "cuda"), strict=True):
        apart = (here.images.double() - there.images.cpu().double()).abs()
        assert float((apart > 0.05).double().mean()) < 0.002  # a nearest pixel that is tied
        assert torch.equal(here.labels, there.labels.cpu())


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_nothing_waits_for_the_device(name: str) -> None:
    batches = augmented(name, "cuda")
    next(batches)  # tables are made and copied once
    with warnings.catch_warnings():  # set_sync_debug_mode warns of being a prototype, after it has set the mode
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            list(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
