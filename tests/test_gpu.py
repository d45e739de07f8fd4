"""The same run on a CUDA device. Not run where there is none."""

from pathlib import Path

import pytest
import torch

from processes import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_default_run_learns_on_a_gpu(tmp_path: Path, precision: str) -> None:
    finished = train(tmp_path, "trainer=cuda", f"trainer.precision={precision}", "tracking=none")
    assert finished.status == 0, finished.err
    assert finished.result["device"] == torch.cuda.get_device_name()
    assert finished.result["metrics"]["test/accuracy"] >= 0.97


def test_compiled_and_captured_steps_are_the_eager_ones_up_to_rounding(tmp_path: Path) -> None:
    losses = []
    for speed in ("safe", "max"):
        folder = tmp_path / speed
        folder.mkdir()
        finished = train(
            folder, "trainer=cuda", "tracking=none", "plots=false", "model=cnn", f"trainer.speed={speed}",
            "trainer.max_epochs=null", "trainer.max_steps=100", "trainer.precision=fp64", "trainer.clip_norm=1",
        )  # fmt: skip
        assert finished.status == 0, finished.err
        assert finished.result["speed"] == {"safe": "eager", "max": "compiled"}[speed]
        losses.append(finished.result["metrics"]["final/train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_a_gpu_starts_from_the_cpu_s_network_and_batches(tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        finished = train(
            folder, f"trainer={device}", "tracking=none", "plots=false",
            "trainer.max_epochs=null", "trainer.max_steps=20", "schedule=constant", "trainer.precision=fp64",
        )  # fmt: skip
        losses.append(finished.result["metrics"]["final/train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
