"""Compiles the C files of this folder for this machine, once, and makes their functions callable."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from gradlab import environment
from gradlab.data.cache import cache_folder, key_of

FOLDER = Path(__file__).parent
FILES = tuple(FOLDER / name for name in ("common.h", "direct.c", "pooling.c", "winograd.c"))
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
LANES = 8
"""Numbers that one instruction computes with."""


class Unavailable(Exception):  # noqa: N818 - no mistake of the user's: such a machine convolves as torch does
    """The functions cannot be had on this machine. The message is a few words: why."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled functions, from the user's cache where they have been compiled before.

    Raises:
        Unavailable: there is no C compiler with OpenMP.
    """
    program = compiler()
    if program is None:
        raise Unavailable("there is no C compiler")
    key = key_of([file.read_bytes() for file in FILES], program, FLAGS, environment.processor())
    file = cache_folder(None) / "cpu" / f"{key}.so"
    try:
        if not file.exists():
            _compile(program, file)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        raise Unavailable(f"{program} does not compile them ({told.strip().splitlines()[-1][:200]})") from error


def is_available() -> bool:
    try:
        library()
    except Unavailable:
        return False
    return True


def compiler() -> str | None:
    """The C compiler that there is, whether or not it can compile them."""
    return shutil.which(os.environ.get("CC", "cc"))


def _compile(program: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sources = [str(source) for source in FILES if source.suffix == ".c"]
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        subprocess.run([program, *FLAGS, *sources, "-o", str(made)], check=True, capture_output=True, text=True)
        made.replace(file)  # whole, or not at all: other processes may be compiling too


def call(name: str, *arguments: "torch.Tensor | int | ctypes.Array[ctypes.c_ssize_t]") -> None:
    """Call a function of the library.

    Args:
        name: of the function.
        arguments: tensors, of which it gets the addresses; numbers, and arrays of them.
    """
    converted = [
        ctypes.c_void_p(own.data_ptr())
        if isinstance(own, torch.Tensor)
        else ctypes.c_ssize_t(own)
        if isinstance(own, int)
        else own
        for own in arguments
    ]
    functions = library()
    functions.use_threads(ctypes.c_ssize_t(torch.get_num_threads()))
    getattr(functions, name)(*converted)


def empty_like_images(images: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """As many images of another shape, channels last, their numbers unset."""
    return images.new_empty(len(images), height, width, channels).permute(0, 3, 1, 2)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """The same [a, b, c, d], so that the numbers of b lie beside each other, in memory without gaps."""
    # Not ``contiguous(memory_format=…)``, which takes the strides of a dimension of size 1 as they are.
    return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
