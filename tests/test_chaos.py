"""Each fault of `scripts/chaos.py`, a few times. `docs/faults.md` has the full counts."""

import json
import os
import sys
from pathlib import Path

import pytest

from processes import ROOT, execute

sys.path.insert(0, str(ROOT / "scripts"))
from faults.campaign import Record, filled_in
from faults.registry import Outcome

pytestmark = pytest.mark.timeout(1800)


def chaos(folder: Path, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "chaos.py"), *arguments, "--json", "found.json"]
    finished = execute(command, folder, timeout=1700)
    assert finished.status == 0, finished.out + finished.err
    found = json.loads((folder / "found.json").read_text())
    for fault, count in (word.split("=") for word in arguments if "=" in word):
        assert [one["survived"] for one in found[fault]] == int(count) * [True]
        assert sum(one["rows_lost"] + one["rows_doubled"] for one in found[fault]) == 0


def test_what_is_killed_ends_in_the_same_bits_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    chaos(tmp_path, "saves=6", "truncated=10", "flipped=10", "sigkill=3")


@pytest.mark.slow
def test_killed_runs_of_every_kind(tmp_path: Path) -> None:
    chaos(tmp_path, "saves=26", "sigkill=14", "sigterm=7", "--seed", "1")


def test_a_mistake_in_a_configuration_names_what_was_meant(tmp_path: Path) -> None:
    chaos(tmp_path, "mistakes=6")


def test_damaged_dataset_files_are_refused(tmp_path: Path, real_mnist: Path) -> None:
    chaos(tmp_path, "damaged=6", "--data", str(real_mnist))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_marked_at_its_step(tmp_path: Path) -> None:
    chaos(tmp_path, "nonfinite=1")


@pytest.mark.slow
def test_out_of_memory_says_what_was_tried(tmp_path: Path) -> None:
    chaos(tmp_path, "memory=1")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes the superuser")
def test_a_full_disk_is_a_clean_exit(tmp_path: Path) -> None:
    chaos(tmp_path, "disk=1")


@pytest.mark.slow
def test_eight_processes_make_one_store(tmp_path: Path) -> None:
    chaos(tmp_path, "many=1")


@pytest.mark.slow
def test_a_store_that_is_locked_or_down(tmp_path: Path) -> None:
    chaos(tmp_path, "locked=2", "server=8", "--seconds", "10")


def test_a_record_grows_and_its_table_says_what_it_holds(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.json")
    for number in range(3):
        record.add("locked", 0, Outcome("for a minute", number != 1, "said", rows_lost=number))
    record.add("server", 0, Outcome("down", True, "said"))
    assert (record.made("locked"), record.made("server"), record.made("disk")) == (3, 1, 0)
    assert record.read()["locked"]["not_survived"] == ["for a minute: said"]
    page = "| fault | seen | tested | survived | rows |\n|---|---|---|---|---|\n| a | `b` | `chaos.py locked=3 server=2`: c | | |\n"
    assert filled_in(page, record.read()).split("\n")[2].endswith("`: c | 3 of 4 (of 5) | 3 |")


def test_the_table_of_faults_is_what_its_record_holds() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    assert filled_in(page, Record(ROOT / "docs" / "faults.json").read()) == page
