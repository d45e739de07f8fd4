"""Our operations for GPUs on a CPU, in Triton's interpreter. Run by test_cuda.py in a process of its own, with TRITON_INTERPRET=1."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlab import compiled
from gradlab.cuda import pooling
from gradlab.cuda.replacing import Replacing
from test_compiled import STEPS, Compiled, assert_alike
from tiny import EPOCH, choice, fit

assert os.environ["TRITON_INTERPRET"] == "1"
CPU = torch.device("cpu")
LAST, FIRST = torch.channels_last, torch.contiguous_format


def ours() -> Replacing:
    return Replacing(CPU, ("cpu",))


def images_of(*shape: int, dtype: torch.dtype = torch.float32, order: torch.memory_format = LAST) -> torch.Tensor:
    """Numbers of which many are equal."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(shape, generator=generator)
        .mul(2)
        .round()
        .to(dtype)
        .contiguous(memory_format=order)
        .requires_grad_()
    )


def both(pool: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> list[torch.Tensor]:
    """What comes out and the gradient by images, of torch's and of ours."""
    told = []
    for context in (contextlib.nullcontext(), ours()):
        with context:
            pooled = pool(images)
        gradient = torch.linspace(-1, 1, pooled.numel()).view(pooled.shape).to(pooled)
        told += [pooled.detach(), *torch.autograd.grad(pooled, images, gradient)]
    assert "MaxPoolBackward" in type(pooled.grad_fn).__name__
    return told


@pytest.mark.parametrize("order", [LAST, FIRST])
@pytest.mark.parametrize("dtype", pooling.DTYPES)
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 6, 28, 28), 2),
        ((3, 16, 31, 30), 2),  # the last row is in no window
        ((2, 8, 7, 9), (3, 2)),
        ((5, 1, 4, 4), 2),
        ((2, 3, 3, 3), 3),
    ],
)
def test_pooling_has_the_bits_of_torchs(
    shape: tuple[int, ...], window: Any, dtype: torch.dtype, order: torch.memory_format
) -> None:
    pooled, gradient, own, own_gradient = both(
        lambda images: F.max_pool2d(images, window), images_of(*shape, dtype=dtype, order=order)
    )
    assert torch.equal(pooled, own)
    assert torch.equal(gradient, own_gradient)


def test_the_maximum_of_a_whole_image_too() -> None:
    pooled, gradient, own, own_gradient = both(lambda images: F.adaptive_max_pool2d(images, 1), images_of(4, 8, 3, 5))
    assert torch.equal(pooled, own)
    assert torch.equal(gradient, own_gradient)


def test_what_is_no_number_stays_so() -> None:
    images = torch.tensor([[float("nan"), 1, 2, 3], [float("-inf"), float("-inf"), 5, float("nan")]]).view(2, 1, 2, 2)
    with ours():
        own = F.max_pool2d(images, 2)
    assert torch.equal(own.isnan(), F.max_pool2d(images, 2).isnan())


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, 2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AdaptiveMaxPool2d(2),
        nn.MaxPool2d(16, 16),  # more pixels than a byte tells apart
    ],
)
def test_other_windows_are_left_to_torch(pool: nn.Module) -> None:
    with ours():
        pooled = pool(images_of(1, 2, 17, 17))
    assert "MaxPoolBackward" not in type(pooled.grad_fn).__name__


def test_gradients_of_gradients_are_refused() -> None:
    images = images_of(1, 1, 2, 2)
    with ours():
        pooled = F.max_pool2d(images, 2)
    (gradient,) = torch.autograd.grad(pooled.square().sum(), images, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.GELU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3)).double()


@pytest.mark.parametrize("compiles", [False, True], ids=["captured", "compiled"])
def test_a_step_with_our_pooling_is_the_eager_one(monkeypatch: pytest.MonkeyPatch, compiles: bool) -> None:
    ours()  # which tries the kernels once
    launched = []
    launch = pooling._launch

    def counted(kernel: Any, *more: Any) -> None:
        launched.append(kernel)
        launch(kernel, *more)

    monkeypatch.setattr(pooling, "_launch", counted)
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr("gradlab.cuda.operations.ours", lambda device: ours())
    adam = choice("optimizer", "adam", lr=0.01)
    eager, _ = fit(network(), adam, STEPS)
    assert not launched
    own, _ = fit(network(), adam, STEPS, callbacks=[Compiled("pooling", compiles)])
    # Two pools in each step; the batches that are no whole ones take torch's, and so does evaluation.
    assert launched.count(pooling._pool) == launched.count(pooling._spread) == 2 * (STEPS - STEPS // EPOCH)
    assert_alike(own, eager)
