import json
import math
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradlab.disk import DiskFullError
from gradlab.tracking.journal import Journal, encode, metric_rows, records
from gradlab.tracking.liveness import State, state_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def kinds(path: Path) -> list[str]:
    return [record["kind"] for record, _ in records(path)]


def write_three(path: Path) -> None:
    journal = Journal(path)
    journal.write("run", name="näme ×", params={"optimizer.lr": "0.1"})
    journal.metrics(10, {"train/loss": 0.5, "lr": 1e-3})
    journal.write("end", status="FINISHED")
    journal.close()


def test_records_come_back_as_they_were_written(path: Path) -> None:
    before = time.time_ns() // 1_000_000
    write_three(path)
    after = time.time_ns() // 1_000_000
    read = [record for record, _ in records(path)]
    assert state_of(read[0].pop("process")) is State.ALIVE
    assert all(before <= record.pop("time") <= after for record in read)
    assert read == [
        {"kind": "run", "name": "näme ×", "params": {"optimizer.lr": "0.1"}},
        {"kind": "metrics", "step": 10, "values": {"train/loss": 0.5, "lr": 1e-3}},
        {"kind": "end", "status": "FINISHED"},
    ]


def test_rows_come_back_with_every_bit(path: Path) -> None:
    numbers = [0.1, 1 / 3, 1e-310, 1.7976931348623157e308, -0.0, 12345678901234567.0, 0.0, 5e-324]
    journal = Journal(path)
    for step, number in enumerate(numbers):
        journal.metrics(step, {"train/loss": number})
    rows = list(metric_rows(path))
    journal.close()
    assert [step for step, _ in rows] == list(range(len(numbers)))
    assert [values["train/loss"].hex() for _, values in rows] == [number.hex() for number in numbers]


def test_numbers_that_are_not_finite_come_back(path: Path) -> None:
    journal = Journal(path)
    journal.metrics(7, {"train/loss": math.nan, "val/loss": math.inf, "lr": -math.inf, "whole": 3})
    journal.close()
    ((step, values),) = metric_rows(path)
    assert step == 7
    assert math.isnan(values["train/loss"])
    assert (values["val/loss"], values["lr"], values["whole"]) == (math.inf, -math.inf, 3.0)


def test_every_line_is_strict_json(path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    journal = Journal(path)
    journal.metrics(7, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    journal.close()
    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["values"] == {"a": "nan", "b": "inf", "c": "-inf", "d": 1.0}


def test_a_record_that_is_not_json_is_refused_whole(path: Path) -> None:
    journal = Journal(path)
    journal.write("run")
    with pytest.raises(ValueError, match="JSON"):
        journal.write("tags", loss=math.nan)
    journal.write("end")
    journal.close()
    assert kinds(path) == ["run", "end"]


@pytest.mark.parametrize("value", [1.5, 0, -3, math.nan, math.inf, -math.inf])
def test_encode_is_undone_by_float(value: float) -> None:
    assert repr(float(encode(value))) == repr(float(value))


def test_other_records_are_no_rows(path: Path) -> None:
    write_three(path)
    assert list(metric_rows(path)) == [(10, {"train/loss": 0.5, "lr": 1e-3})]


def test_a_record_can_be_read_before_the_journal_is_closed(path: Path) -> None:
    journal = Journal(path)
    journal.write("run")
    assert kinds(path) == ["run"]
    journal.metrics(1, {f"metric {i}": 0.1 for i in range(2000)})  # longer than a file's buffer
    assert kinds(path) == ["run", "metrics"]
    journal.close()


def test_an_artifact_is_named_from_the_run_s_folder(path: Path) -> None:
    journal = Journal(path)
    journal.artifact(path.parent / "plots" / "curve.png", "plots")
    journal.close()
    ((record, _),) = records(path)
    assert (record["kind"], record["path"], record["folder"]) == ("artifact", "plots/curve.png", "plots")


# --------------------------------------------------------------------- torn lines


def test_a_last_line_cut_anywhere_is_ignored(path: Path) -> None:
    write_three(path)
    content = path.read_bytes()
    start_of_last = content[:-1].rfind(b"\n") + 1
    for length in range(start_of_last, len(content)):
        path.write_bytes(content[:length])
        assert kinds(path) == ["run", "metrics"]
    path.write_bytes(content)
    assert kinds(path) == ["run", "metrics", "end"]


def test_a_torn_line_is_dropped_when_the_journal_is_opened_again(path: Path) -> None:
    write_three(path)
    content = path.read_bytes()
    start_of_last = content[:-1].rfind(b"\n") + 1
    for length in (start_of_last, start_of_last + 1, len(content) - 1):
        path.write_bytes(content[:length])
        journal = Journal(path)
        assert path.read_bytes() == content[:start_of_last]
        journal.write("tags", tags={})
        journal.close()
        assert kinds(path) == ["run", "metrics", "tags"]


def test_a_journal_of_one_torn_line_starts_anew(path: Path) -> None:
    path.write_bytes(b'{"kind":"ru')
    journal = Journal(path)
    journal.write("run")
    journal.close()
    assert kinds(path) == ["run"]


def test_a_whole_journal_is_continued(path: Path) -> None:
    write_three(path)
    content = path.read_bytes()
    journal = Journal(path)
    journal.write("tags", tags={})
    journal.close()
    assert path.read_bytes().startswith(content)
    assert kinds(path) == ["run", "metrics", "end", "tags"]


def test_a_torn_line_is_read_once_it_is_whole(path: Path) -> None:
    write_three(path)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    offset = [behind for _, behind in records(path)][-1]
    path.write_bytes(content)
    assert [record["kind"] for record, _ in records(path, offset)] == ["end"]


# ------------------------------------------------------------------------ offsets


def test_reading_goes_on_from_every_offset(path: Path) -> None:
    write_three(path)
    read = list(records(path))
    assert read[-1][1] == path.stat().st_size
    for done, (_, offset) in enumerate(read, start=1):
        assert list(records(path, offset)) == read[done:]


def test_reading_goes_on_with_what_was_added(path: Path) -> None:
    journal = Journal(path)
    seen, offset = [], 0
    for step in range(5):
        journal.metrics(step, {"lr": 0.1})
        for record, behind in records(path, offset):
            seen.append(record["step"])
            offset = behind
        assert list(records(path, offset)) == []
    journal.close()
    assert seen == [0, 1, 2, 3, 4]


def test_an_empty_journal_has_no_records(path: Path) -> None:
    Journal(path).close()
    assert list(records(path)) == []


# ---------------------------------------------------------------------- full disk


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may take 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_record_without_room_is_told_and_leaves_no_part(path: Path, small_files: None) -> None:
    journal = Journal(path)
    journal.write("run")
    begun = path.stat().st_size
    with pytest.raises(DiskFullError, match=rf"[\d,]+ bytes could not be written to {path}: .*[\d,]+ bytes free"):
        journal.write("tags", tags={"long": "x" * 1000})
    assert path.stat().st_size == begun
    journal.write("end", status="FAILED")  # a smaller one still has room
    journal.close()
    assert kinds(path) == ["run", "end"]


# ------------------------------------------------------------------------ secrets


def test_secrets_of_the_environment_never_reach_a_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-password")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:canary%40address@host/mlflow")
    journal = Journal(path)
    journal.write("run", params={"name": "it is canary-password"}, tags={})
    journal.write("tags", tags={"gradlab.reason": "no canary@address at https://me:canary%40address@host, x://a:b@c"})
    journal.close()
    assert "canary" not in path.read_text()
    (run, _), (tags, _) = records(path)
    assert run["params"] == {"name": "it is ***"}
    assert tags["tags"]["gradlab.reason"] == "no *** at https://***@host, x://***@c"
