"""A dataset's file is damaged."""

import functools
import gzip
import random
import re
import shutil
from pathlib import Path

from omegaconf import OmegaConf

from faults.commands import QUICK, clean, last_lines, result_of, run_in, start
from faults.registry import Outcome, Setting, fault
from gradlab.config import choice
from gradlab.entry import CONFIGS
from gradlab.errors import DataError

WHOLE_RUN_EVERY = 40
HEADER = 64
"""Bytes at the beginning of a packed file that may change without any change of what is packed."""


@fault(full=200)
def damaged(setting: Setting, number: int) -> Outcome:
    """damaged dataset files (MNIST, packed and unpacked): refused before training, with expected and found checksum"""
    packed, whole = _whole(setting.data / "MNIST" / "raw")
    draw, folder = setting.draw(number), setting.place(number)
    there = folder / "data" / "MNIST" / "raw"
    there.mkdir(parents=True)
    for path in packed:
        (there / path.name).symlink_to(path.resolve())
    name = draw.choice(sorted(whole))
    kind, content = _damage(draw, name, whole)
    (there / name).unlink(missing_ok=True)
    (there / name).write_bytes(content)
    outcome = _whole_run(folder, kind) if number % WHOLE_RUN_EVERY == 0 else _load(folder, kind)
    shutil.rmtree(folder / "data")
    return outcome


@functools.cache
def _whole(raw: Path) -> tuple[list[Path], dict[str, bytes]]:
    """MNIST's packed files, and the contents of those and of what is packed, by name."""
    packed = sorted(raw.glob("*.gz"))
    if len(packed) != 4:
        raise SystemExit(f"needs MNIST's four packed files, and {raw} has {len(packed)}: name their folder with --data")
    whole = {path.name: path.read_bytes() for path in packed}
    return packed, whole | {name.removesuffix(".gz"): gzip.decompress(content) for name, content in whole.items()}


def _damage(draw: random.Random, name: str, whole: dict[str, bytes]) -> tuple[str, bytes]:
    content = bytearray(whole[name])
    first = HEADER if name.endswith(".gz") else 0
    at = draw.randrange(first, len(content))
    kinds = ("a flipped bit", "cut off", "a block of zeros", "bytes added", "empty", "another file", "a web page")
    kind = draw.choice(kinds)
    if kind == "a flipped bit":
        content[at] ^= 1 << draw.randrange(8)
    elif kind == "cut off":
        del content[at:]
    elif kind == "a block of zeros":
        block = bytes(min(4096, len(content) - at))
        content[at : at + len(block)] = block
        if content == whole[name]:
            content[at] = 255
    elif kind == "bytes added":
        content += draw.randbytes(draw.randrange(1, 100)) + b"\1"
    elif kind == "empty":
        content = bytearray()
    elif kind == "another file":
        content = bytearray(
            whole[draw.choice([other for other in whole if other.endswith(name[-3:]) and other != name])]
        )
    else:
        content = bytearray(b"<!DOCTYPE html><title>404 Not Found</title>")
    return kind, bytes(content)


def _load(folder: Path, kind: str) -> Outcome:
    """What a run does with its data, in this process."""
    numbers = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / "mnist.yaml"))
    assert isinstance(numbers, dict)
    try:
        choice("data", {**numbers, "root": str(folder / "data"), "download": False}).load()
    except DataError as error:
        return Outcome(kind, _names_checksums(str(error)), str(error))
    return Outcome(kind, False, "it was read")


def _whole_run(folder: Path, kind: str) -> Outcome:
    process = start(folder, *QUICK, "data=mnist", "model=mlp", "trainer.max_epochs=1", "tracking=none")
    _, err = process.communicate(timeout=300)
    run = run_in(folder / "outputs")
    trained = b'"metrics"' in (run / "journal.jsonl").read_bytes()
    refused = process.returncode == 1 and clean(err) and result_of(run).get("status") == "failed" and not trained
    return Outcome(f"{kind}, a whole run", refused and _names_checksums(err), last_lines(err))


def _names_checksums(message: str) -> bool:
    return len(set(re.findall(r"\b[0-9a-f]{32,64}\b", message))) == 2
