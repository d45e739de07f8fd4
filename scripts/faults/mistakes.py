"""Mistakes in a configuration: slips of the finger, wrong types, numbers out of range."""

import random
import re
import string

from omegaconf import OmegaConf

from faults.commands import last_lines, start
from faults.registry import Outcome, Setting, fault
from gradlab.config import AXES, LISTED
from gradlab.entry import CONFIGS

WRONG = {
    "optimizer.lr": ["-1", "0", "fast", "null", "[1]"],
    "optimizer.weight_decay": ["-0.1", "heavy"],
    "optimizer.betas": ["[0.9]", "[0.9,1.5]", "0.9"],
    "seed": ["-1", "1.5", "lucky", "null"],
    "data.val_fraction": ["1.5", "-0.1", "half"],
    "data.batch_size": ["0", "-32", "huge"],
    "trainer.max_epochs": ["0", "-5", "many", "1.5"],
    "trainer.precision": ["fp8", "fp23"],
    "trainer.validate_every": ["0 steps", "5 parsecs", "often"],
    "schedule.warmup": ["10", "-5%", "200%"],
    "model.hidden": ["[0]", "[-64]", "[a]"],
    "plots": ["maybe", "3"],
    "loss.label_smoothing": ["-0.1", "2"],
    "trainer.clip_norm": ["-1", "0"],
    "tracking.uri": ["nonsense", "file:///tmp/x"],
}


@fault(full=200)
def mistakes(setting: Setting, number: int) -> Outcome:
    """generated configuration mistakes: exit status 2, the nearest name or the key and its rule, no folder, no run"""
    kind, override, expected = _mistake(setting.draw(number))
    typed = override
    if kind != "a wrong value":
        typed = override.partition("=")[2 if "choice" in kind else 0].split(".")[-1]
    folder = setting.place(number)
    process = start(folder, override)
    out, err = process.communicate(timeout=120)
    left = sorted(path.name for path in folder.iterdir())
    wrong = []
    if process.returncode != 2:
        wrong.append(f"exit status {process.returncode}")
    if left:
        wrong.append(f"left {left}")
    others = re.sub(rf"(?<![\w.]){re.escape(typed)}(?!\w)", "", err.replace(override, ""))
    if not re.search(rf"(?<![\w.]){re.escape(expected)}(?!\w)", others):
        wrong.append(f"does not say '{expected}'")
    if "Traceback" in err or out:
        wrong.append("says more than a message")
    shown = f"{override} → {last_lines(err)}"
    return Outcome(kind, not wrong, f"{'; '.join(wrong)}: {shown}" if wrong else shown)


def _mistake(draw: random.Random) -> tuple[str, str, str]:
    """Its kind, the override, and what the message must hold: the name that was meant, or the key that is wrong."""
    kind = draw.choice(["choice", "choice", "axis", "key", "key", "value", "value"])
    # A list of one is chosen by its name, too; its numbers are below that.
    axis = draw.choice([axis for axis in AXES if axis != LISTED or kind == "choice"])
    if kind == "axis":
        return "a slip in an axis", f"{_slip(draw, axis, set(AXES))}=x", axis
    if kind == "value":
        key = draw.choice(sorted(WRONG))
        return "a wrong value", f"{key}={draw.choice(WRONG[key])}", key
    if kind == "choice":
        name = draw.choice([name for name in sorted(AXES[axis]) if len(name) > 2])
        return "a slip in a choice", f"{axis}={_slip(draw, name, {*AXES[axis], 'none'})}", name
    chosen = {"data": "digits", "model": "mlp", "init": "he", "loss": "cross_entropy", "optimizer": "adamw"}
    chosen |= {"schedule": "cosine", "trainer": "auto", "tracking": "mlflow"}
    axis = draw.choice(sorted(chosen))
    keys = [
        str(key) for key in OmegaConf.load(CONFIGS / axis / f"{chosen[axis]}.yaml") if key not in ("name", "defaults")
    ]
    key = draw.choice(keys)
    return "a slip in a key", f"{axis}.{_slip(draw, key, set(keys))}=1", key


def _slip(draw: random.Random, name: str, taken: set[str]) -> str:
    """``name`` with two letters swapped, one lost, doubled or wrong; none of the names that there are."""
    while True:
        at = draw.randrange(len(name) - 1)
        letter = draw.choice(string.ascii_lowercase)
        slip = draw.choice(
            [
                name[:at] + name[at + 1] + name[at] + name[at + 2 :],
                *([name[:at] + name[at + 1 :]] if len(name) > 2 else []),
                name[: at + 1] + name[at:],
                name[:at] + letter + name[at + 1 :],
            ]
        )
        if slip not in taken and slip[0].isalpha():
            return slip
