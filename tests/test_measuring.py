"""What a step costs, and what memory it takes: measured, or known before it is tried that there is not enough."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from gradlab import measuring
from gradlab.config import build_config
from processes import execute

Compose = Callable[..., DictConfig]


def test_a_size_that_does_not_fit_is_not_tried(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(compose("trainer=cpu", "tracking=none", "model.hidden=[16]"))
    splits = config.data.load()
    tried: list[int] = []
    pace = measuring._pace

    def noted(config: object, splits: object, size: int) -> measuring.Pace:
        tried.append(size)
        found = pace(config, splits, size)  # type: ignore[arg-type]
        return measuring.Pace(size, found.seconds, size * 1000)

    monkeypatch.setattr(measuring, "_pace", noted)
    one, two, four = measuring.measure(config, splits, (1, 2, 4), 60, 3000)
    assert tried == [1, 2]
    assert 0 < one.seconds < 1
    assert 0 < two.seconds < 1
    assert (four.members, four.seconds, four.memory) == (4, math.inf, 4000)


def test_a_size_whose_memory_cannot_be_had_ends_the_measurement(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(compose("trainer=cpu", "tracking=none", "model.hidden=[16]"))

    def short(config: object, splits: object, size: int) -> measuring.Pace:
        if size > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return measuring.Pace(size, 1e-3, 1000)

    monkeypatch.setattr(measuring, "_pace", short)
    found = measuring.measure(config, config.data.load(), (1, 2, 4), 60)
    assert [(pace.members, pace.seconds) for pace in found] == [(1, 1e-3), (2, math.inf)]


def test_a_measurement_takes_a_share_of_what_it_is_for(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(compose("trainer=cpu", "tracking=none", "model.hidden=[16]"))
    now, power = 0.0, 1.0

    def slow(config: object, splits: object, size: int) -> measuring.Pace:
        nonlocal now
        now += 7.0 * size
        return measuring.Pace(size, size**-power, 1000)

    monkeypatch.setattr(measuring, "_pace", slow)
    monkeypatch.setattr("gradlab.measuring.time.perf_counter", lambda: now)
    splits = config.data.load()

    def sizes(work: float) -> list[int]:
        return [pace.members for pace in measuring.measure(config, splits, (1, 2, 4, 8), 1000, None, work)]

    assert sizes(60) == [1]
    assert sizes(100) == [1, 2]
    assert sizes(10_000) == [1, 2, 4, 8]
    # 21 of 105 seconds are for a size that may save a quarter, and not for one that may save an eighth.
    assert sizes(210) == [1, 2, 4]
    power = 0.4
    assert sizes(210 * 2**-0.6) == [1, 2]


LIMITED = """
import json, re, resource
from pathlib import Path
import hydra
from gradlab import measuring
from gradlab.config import build_config
from gradlab.entry import CONFIGS

def of(hidden):
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return build_config(hydra.compose("config", ["trainer=cpu", "tracking=none", f"model.hidden={hidden}"]))

large = of("[2048,2048]")
splits = large.data.load()
measuring.measure(of("[16]"), splits, (1, 2), 60)  # all is imported, and all threads are there
size = int(re.search(r"^VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (600 << 20), resource.RLIM_INFINITY))
print(json.dumps([(pace.members, pace.seconds) for pace in measuring.measure(large, splits, (1, 2, 4, 8, 16), 600)]))
"""


@pytest.mark.slow
def test_a_measurement_ends_where_a_process_has_no_more_memory(tmp_path: Path) -> None:
    """By a limit on its address space: a member has seventeen million bytes of weights, and seventy with gradients and moments."""
    finished = execute([sys.executable, "-c", LIMITED], tmp_path, 250)
    assert finished.status == 0, finished.err
    found = json.loads(finished.out.strip().splitlines()[-1])
    assert [members for members, _ in found] == [1, 2, 4, 8, 16][: len(found)]
    assert all(math.isfinite(seconds) for _, seconds in found[:-1])
    assert len(found) > 1
    assert found[-1][1] == math.inf


@pytest.mark.slow
def test_compiling_is_tried_where_there_is_much_to_do_and_remembered(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = build_config(compose("trainer=cpu", "tracking=none"))
    splits = config.data.load()
    alone = [measuring.Pace(1, 1e-3, 1000)]
    assert measuring.compiled_pace(config, splits, alone, 10) is None
    found = measuring.compiled_pace(config, splits, alone, 1e7)
    assert found is not None
    assert found.members == 1
    assert found.compiling > 0
    assert 0 < found.seconds < 1
    assert measuring.compiled_pace(config, splits, alone, 1e7) == found
