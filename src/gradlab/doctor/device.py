"""Processor and GPU: do driver and torch go together?"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from gradlab import environment
from gradlab.doctor.finding import GOOD, NOTE, WRONG, Finding

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu")


def look_at_device() -> Iterator[Finding]:
    """What torch sees, beside what the system has."""
    yield Finding("device", GOOD, environment.processor())
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever it breaks at
        said = f"torch cannot be imported: {type(error).__name__}: {error}"
        yield Finding("device", WRONG, said, "Install it anew: bash scripts/train.sh")
        return
    yield _of_compiled_steps()
    build = f"torch {torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'})"
    driver = _driver()
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(number)
            said = f"{torch.cuda.get_device_name(number)}, {free / 2**30:.1f} of {whole / 2**30:.1f} GB free"
            yield Finding("device", GOOD, f"{said}, driver {driver or 'unknown'}, {build}")
        yield _of_kernels()
    elif not any(Path(path).exists() for path in DRIVERS):
        yield Finding("device", NOTE, f"no NVIDIA GPU with a driver here; trainer=auto takes the CPU. {build}")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding("device", NOTE, f"CUDA_VISIBLE_DEVICES hides the GPUs. {build}")
    elif torch.version.cuda is None:
        advice = (
            "Install a torch that was built for CUDA: bash scripts/train.sh, or see https://pytorch.org/get-started"
        )
        yield Finding(
            "device", WRONG, f"there is an NVIDIA driver ({driver or 'version unknown'}), and {build}", advice
        )
    else:
        advice = "Renew the driver, or install a torch for an older CUDA: https://pytorch.org/get-started"
        yield Finding("device", WRONG, f"driver {driver or 'unknown'} does not work with {build}", advice)


def _of_compiled_steps() -> Finding:
    from gradlab.cpu.library import Unavailable, library

    try:
        library()
    except Unavailable as error:
        said = f"compiled steps (trainer.speed) have torch's convolutions alone: {error}"
        return Finding("device", NOTE, said, "Install a C compiler with OpenMP, such as gcc.")
    return Finding("device", GOOD, "a C compiler: compiled steps (trainer.speed) have our own convolutions on the CPU")


def _of_kernels() -> Finding:
    import torch

    from gradlab.cuda.pooling import obstacle

    if told := obstacle(torch.device("cuda")):
        said = f"captured and compiled steps have torch's max pooling: {told}"
        return Finding("device", NOTE, said, "Triton comes with torch, and wants a C compiler, such as gcc.")
    return Finding("device", GOOD, "Triton works: captured and compiled steps have our own max pooling on the GPU")


def _driver() -> str | None:
    """The version of NVIDIA's driver, as its own tool says it."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0].strip() or None if done.returncode == 0 else None
