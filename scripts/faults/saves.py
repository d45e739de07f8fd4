"""The writing of a checkpoint is killed, or a checkpoint is damaged: what is opened is whole, or said not to be."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import forked
from faults.dying import Death, die
from faults.registry import Outcome, Setting, fault
from faults.same_bits import bytes_of


@fault(full=60)
def saves(setting: Setting, number: int) -> Outcome:
    """kill at each write, flush, rename and removal of a save, before and after it: a whole checkpoint is loaded"""
    from gradlab.checkpoints import clear_temporary, load_checkpoint, newest_checkpoint

    place = setting.place(number)
    for step in (1, 2):
        _save(place, step)
    changes = forked.called(lambda: _changes(place))
    death = Death(1 + number // 2 % changes, bool(number % 2))
    for step in (3, 4):  # what counting them has replaced
        _save(place, step)
    child = os.fork()
    if not child:
        die(death)
        try:
            _save(place, 5)
        finally:
            os._exit(0)
    said = [] if forked.ended(child) == -signal.SIGKILL else ["it lived"]
    found = newest_checkpoint(place)
    if found is None or found.remark is not None or found.step not in (4, 5):
        said.append(f"found {found and found.step}, {found and found.remark}")
    else:
        tensors, state = _some_checkpoint(found.step)
        if bytes_of(found.tensors["model.weight"]) != bytes_of(tensors["model.weight"]):
            said.append("other tensors")
        if found.state["numbers"] != state["numbers"]:
            said.append("another state")
        _save(place, 6)  # and the next writing is not in the way of what was left
        clear_temporary(place)
        if load_checkpoint(place / "last")[1]["step"] != 6 or len(list(place.iterdir())) != 2:
            said.append(f"left: {sorted(path.name for path in place.iterdir())}")
    told = "; ".join(said) or f"the {'new' if found and found.step == 5 else 'old'} one is there"
    return Outcome("after a change of the disk" if death.after else "before a change of the disk", not said, f"{death} of {changes}: {told}")  # fmt: skip


@fault(full=200)
def truncated(setting: Setting, number: int) -> Outcome:
    """the newest checkpoint cut off at a random offset: said, and the one before it used"""
    draw = setting.draw(number)
    return _damaged(setting, number, "cut off", lambda content: content[: draw.randrange(len(content) - 1)])


@fault(full=200)
def flipped(setting: Setting, number: int) -> Outcome:
    """one bit of the newest checkpoint flipped: said, and the one before it used"""
    draw = setting.draw(number)

    def flip(content: bytearray) -> bytearray:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return content

    return _damaged(setting, number, "with a flipped bit", flip)


def _damaged(setting: Setting, number: int, what: str, change: Callable[[bytearray], bytearray]) -> Outcome:
    from gradlab.checkpoints import STATE, TENSORS, newest_checkpoint

    place = setting.place(number)
    for step in (1, 2):
        _save(place, step)
    file = place / "last" / (TENSORS, STATE)[number % 2]
    file.write_bytes(change(bytearray(file.read_bytes())))
    found = newest_checkpoint(place)
    survived = found is not None and found.step == 1 and found.remark is not None
    return Outcome(f"{file.name} {what}", survived, (found and found.remark) or "nothing was said")


def _some_checkpoint(step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch

    draws = torch.Generator().manual_seed(step)
    return {"model.weight": torch.randn(64, 64, generator=draws)}, {"step": step, "numbers": [step / 3] * 100}


def _save(folder: Path, step: int) -> None:
    from gradlab.checkpoints import save_checkpoint

    save_checkpoint(folder / "last", *_some_checkpoint(step))


def _changes(place: Path) -> int:
    made = die(None)
    _save(place, 3)
    return made()
