"""What is bundled for a machine without a network, and what a check of a GPU does with parts that fail."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu.check import Part, parts, read_runs, run, summary
from offline.bundle import ROOT, platforms_of, read_lock, wanted

RUN, TESTS = (read_lock(ROOT / "requirements" / name) for name in ("run.txt", "test.txt"))


def names(python: str = "3.12", platform: str = "manylinux_2_28_x86_64", have: tuple[str, ...] = ()) -> list[str]:
    return [entry.name for entry in wanted(RUN, python, platform, have)]


def test_a_lock_is_read_whole() -> None:
    text = (ROOT / "requirements" / "run.txt").read_text()
    assert len(RUN) == text.count("==") - text.count("== '")
    assert sum(entry.text.count("--hash=sha256:") for entry in RUN) == text.count("--hash=sha256:")
    assert {"pytest", "torch"} <= {entry.name for entry in TESTS}


def test_each_python_has_its_own_versions() -> None:
    found = {
        python: [e.text.split()[0] for e in wanted(RUN, python, "linux_x86_64", ()) if e.name == "numpy"]
        for python in ("3.11", "3.12")
    }
    assert all(len(versions) == 1 for versions in found.values())
    assert found["3.11"] != found["3.12"]


def test_torch_stands_for_all_that_comes_with_it() -> None:
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit", "lightning", "hydra-core"} <= set(
        names()
    )
    left = set(names(have=("torch", "Lightning")))
    assert not {name for name in left if name.startswith(("torch", "triton", "nvidia", "cuda", "lightning"))} - {
        "torchmetrics",
        "lightning-utilities",
    }
    assert {"hydra-core", "mlflow", "torchmetrics"} <= left


def test_platforms() -> None:
    assert "pywin32" in names(platform="win_amd64")
    assert "pywin32" not in names()
    assert "nvidia-cublas" not in names(platform="macosx_14_0_arm64")
    assert platforms_of("manylinux_2_17_aarch64")[:2] == ["manylinux_2_17_aarch64", "manylinux_2_16_aarch64"]
    assert platforms_of("macosx_14_0_arm64") == ["macosx_14_0_arm64"]


def test_parts_that_fail_or_take_too_long_are_recorded(tmp_path: Path) -> None:
    def part(program: str, seconds: float) -> Part:
        return Part("part", [sys.executable, "-c", program], seconds)

    log = tmp_path / "log"
    assert run(part("print(1)", 60), log, dict(os.environ))["ended"] == "ok"
    failed = run(part("import sys; sys.exit('no luck')", 60), log, dict(os.environ))
    assert (failed["ended"], failed["said"]) == ("exit status 1", ["no luck"])
    began = time.monotonic()
    late = run(part("import time; print('begun', flush=True); time.sleep(600)", 1), log, dict(os.environ))
    assert late["ended"] == "not done after 1 s"
    assert late["said"] == ["begun"]
    assert time.monotonic() - began < 300
    assert read_runs(tmp_path) == []


def test_the_parts_fit_into_nine_minutes(tmp_path: Path) -> None:
    parsed = argparse.Namespace(cpu_rehearsal=False, into=tmp_path, data=tmp_path, images=None)
    assert sum(part.seconds for part in parts(parsed, tmp_path)) <= 540


def test_finished_runs_are_summed_up() -> None:
    runs = [
        {"status": "finished", "metrics": {"test/accuracy": each}, "seconds": {"training_steps": 2.0}}
        for each in (0.5, 0.7)
    ]
    found = summary([*runs, {"status": "diverged", "metrics": {}, "seconds": {}}])
    assert (found["finished"], found["of"]) == (2, 3)
    assert found["test_accuracy"] == {"mean": pytest.approx(0.6), "std": pytest.approx(0.02**0.5)}
    assert found["training_seconds"] == {"mean": 2.0, "std": 0.0}
    assert summary([]) == {"finished": 0, "of": 0}


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gpu" / "check.py"), "--into", str(tmp_path / "into")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 1
    assert "finds no CUDA device" in done.stderr
    assert not (tmp_path / "into").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rehearsal_walks_through_all_parts(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gpu" / "check.py"), "--cpu-rehearsal", "--into", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
