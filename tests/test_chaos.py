"""Each fault of `scripts/chaos.py`, a few times. `docs/faults.md` has the full counts."""

import json
import os
import sys
from pathlib import Path

import pytest

from processes import ROOT, execute

pytestmark = pytest.mark.timeout(1800)


def chaos(folder: Path, fault: str, count: int, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "chaos.py"), f"{fault}={count}", "--json", "found.json"]
    finished = execute([*command, *arguments], folder, timeout=1700)
    assert finished.status == 0, finished.out + finished.err
    found = json.loads((folder / "found.json").read_text())[fault]
    assert (found["survived"], found["of"], found["rows_lost"]) == (count, count, 0)


def test_a_mistake_in_a_configuration_names_what_was_meant(tmp_path: Path) -> None:
    chaos(tmp_path, "mistakes", 6)


def test_damaged_dataset_files_are_refused(tmp_path: Path, real_mnist: Path) -> None:
    chaos(tmp_path, "damaged", 6, "--data", str(real_mnist))


def test_a_loss_that_is_not_finite_is_marked_at_its_step(tmp_path: Path) -> None:
    chaos(tmp_path, "nonfinite", 2)


def test_out_of_memory_says_what_was_tried(tmp_path: Path) -> None:
    chaos(tmp_path, "memory", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes the superuser")
def test_a_full_disk_is_a_clean_exit(tmp_path: Path) -> None:
    chaos(tmp_path, "disk", 1)


@pytest.mark.slow
def test_eight_processes_make_one_store(tmp_path: Path) -> None:
    chaos(tmp_path, "many", 1)


@pytest.mark.slow
def test_a_store_that_is_locked_or_down(tmp_path: Path) -> None:
    chaos(tmp_path, "store", 5, "--seconds", "10")
