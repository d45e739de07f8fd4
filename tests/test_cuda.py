"""Our operations for GPUs: in Triton's interpreter on any machine, and on a GPU where there is one."""

import contextlib
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gradlab.cuda import operations
from processes import ROOT

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")


def test_our_operations_in_tritons_interpreter() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "interpreted.py")], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_nothing_is_replaced_on_a_cpu() -> None:
    images = torch.rand(1, 1, 4, 4, requires_grad=True)
    with operations.ours(images.device):
        assert "MaxPool2D" in type(F.max_pool2d(images, 2).grad_fn).__name__


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "window"), [((9, 64, 31, 31), 2), ((5, 6, 28, 28), 2), ((7, 1, 9, 6), 3), ((64, 256, 3, 3), 3)]
)
def test_pooling_on_a_gpu_has_the_bits_of_torchs(
    shape: tuple[int, ...], window: int, dtype: torch.dtype, order: torch.memory_format
) -> None:
    torch.manual_seed(0)
    images: Any = torch.randn(shape, device="cuda").mul(2).round().to(dtype).contiguous(memory_format=order)
    images.requires_grad_()
    told = []
    for context in (contextlib.nullcontext(), operations.ours(images.device)):
        with context:
            pooled = F.max_pool2d(images, window)
        gradient = torch.linspace(-1, 1, pooled.numel(), device="cuda").view(pooled.shape).to(dtype)
        told.append((pooled.detach(), *torch.autograd.grad(pooled, images, gradient)))
    assert "MaxPoolBackward" in type(pooled.grad_fn).__name__
    for torchs, own in zip(*told, strict=True):
        assert torch.equal(torchs, own)
