"""Fixtures that several test files share."""

import copy
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """torch on one thread: test processes run side by side, and their arrays are small."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """``compose('optimizer=sgd', …)``: what Hydra makes of configs/ and these overrides."""

    @functools.cache
    def composed(*overrides: str) -> DictConfig:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose("config", list(overrides))

    return lambda *overrides: copy.deepcopy(composed(*overrides))


@pytest.fixture(scope="session")
def real_mnist() -> Path:
    """The folder that holds the real MNIST/raw; the test is skipped where there is none."""
    root = Path(os.environ.get("GRADLAB_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"needs MNIST, and there is no {root}/MNIST/raw: name its folder in GRADLAB_TEST_DATA")
    return root
