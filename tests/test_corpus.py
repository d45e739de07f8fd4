"""Broken and strange pictures and archives, read in a process of their own whose memory is watched."""

import json
import sys
from typing import Any

import pytest

import pictures_corpus
from pictures_corpus import ARCHIVES, PICTURES
from processes import execute


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("corpus")
    finished = execute([sys.executable, "-W", "error", pictures_corpus.__file__, str(folder)], folder, timeout=900)
    assert finished.status == 0, finished.err
    assert finished.err == ""
    return dict(json.loads(finished.out))


def test_the_corpus_is_large_and_its_reading_takes_little_memory(outcomes: dict[str, Any]) -> None:
    assert len(PICTURES) >= 60
    assert len(ARCHIVES) >= 60
    assert set(PICTURES) | set(ARCHIVES) == set(outcomes) - {"peak bytes"}
    assert outcomes["peak bytes"] < 500e6


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_read_or_refused_with_its_reason(name: str, outcomes: dict[str, Any]) -> None:
    expected = PICTURES[name][1]
    if isinstance(expected, str):
        assert isinstance(outcomes[name], str), outcomes[name]
        assert expected in outcomes[name]
        assert "\n" not in outcomes[name]
    else:
        assert not isinstance(outcomes[name], str), outcomes[name]
        for found, wanted in zip(outcomes[name], expected, strict=True):
            assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 4, outcomes[name]


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_read_or_refused_with_its_reason(name: str, outcomes: dict[str, Any]) -> None:
    expected = ARCHIVES[name][1]
    if isinstance(expected, str):
        assert isinstance(outcomes[name], str), outcomes[name]
        assert expected in outcomes[name]
        assert name in outcomes[name]
        assert "\n" not in outcomes[name]
    else:
        assert outcomes[name] == expected
