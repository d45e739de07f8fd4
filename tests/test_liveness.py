"""A recorded process is told from any other, and there is doubt wherever there should be."""

import json
import subprocess
import sys
import time

import pytest

from gradlab.tracking import liveness
from gradlab.tracking.liveness import ALL_OF_THE_MACHINE, State, identity, state_of

ASK = "import json; from gradlab.tracking.liveness import identity; print(json.dumps(identity()), flush=True); input()"


def test_a_process_is_alive_until_it_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        recorded = json.loads(process.stdout.readline())
        assert recorded["pid"] == process.pid
        assert state_of(recorded) is State.ALIVE
        process.kill()
        # Nobody has waited for it yet, so its id is still taken: by what is left of it, a zombie.
        deadline = 100
        while state_of(recorded) is State.ALIVE and deadline:
            deadline -= 1
            time.sleep(0.05)
        assert state_of(recorded) is State.GONE
        process.wait()
    assert state_of(recorded) is State.GONE


def test_an_id_that_was_used_again_is_another_process() -> None:
    mine = identity()
    assert state_of(mine) is State.ALIVE
    assert state_of({**mine, "started": mine["started"] - 1}) is State.GONE


@pytest.mark.parametrize("missing", ["host", "boot", "namespace", "pid", "started"])
def test_what_was_not_recorded_is_doubt(missing: str) -> None:
    assert state_of(None) is State.UNKNOWN
    assert state_of({}) is State.UNKNOWN
    assert state_of({**identity(), "pid": 10**9, missing: None}) is State.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"pid": 10**9}, State.GONE),
        ({"pid": 10**9, "namespace": "pid:[1]"}, State.UNKNOWN),  # another container of this machine
        ({"boot": "before"}, State.GONE),  # this machine, started anew
        ({"boot": "before", "host": "other"}, State.UNKNOWN),
        ({"boot": "before", "machine": "other"}, State.UNKNOWN),
        ({"boot": "before", "machine": None}, State.UNKNOWN),
        ({"boot": "before", "namespace": "pid:[1]"}, State.UNKNOWN),
    ],
)
def test_other_machines_and_containers(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], state: State
) -> None:
    here = {"host": "here", "machine": "m", "boot": "now", "namespace": ALL_OF_THE_MACHINE, "user": 0}
    monkeypatch.setattr(liveness, "_surroundings", lambda: here)
    assert state_of({**here, "pid": 1, "started": 1, **changes}) is state


def test_another_user_s_process_is_doubt_but_for_the_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {**identity(), "pid": 10**9, "user": 4711}
    here = liveness._surroundings()
    for user, state in ((0, State.GONE), (4711, State.GONE), (4712, State.UNKNOWN)):
        monkeypatch.setattr(liveness, "_surroundings", lambda user=user: {**here, "user": user})
        assert state_of(mine) is state
