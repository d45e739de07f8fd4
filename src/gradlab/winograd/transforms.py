"""Compiles ``transforms.c`` for this machine, once, and calls it with tensors."""

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

SOURCE = Path(__file__).with_name("transforms.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
LANES = 8
"""Of what numbers of channels must be a multiple."""
NUMBERS = 36
"""That a tile has once it is transformed, for each channel."""
TILE = 4
"""Pixels of an output on each side of a tile."""
OF_IMAGES = ("tiles_of_images", "images_of_tiles", "outputs_of_products", "products_of_outputs")
OF_KERNELS = ("transformed_kernels", "kernels_of_transformed")


class Unavailable(Exception):  # noqa: N818 - no mistake of the user's: such a machine convolves as torch does
    """The transforms cannot be had on this machine. The message is a few words: why."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled transforms, from the user's cache where they have been compiled before.

    Raises:
        Unavailable: there is no C compiler with OpenMP.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("there is no C compiler")
    key = key_of(SOURCE.read_bytes(), compiler, FLAGS, environment.processor())
    file = cache_folder(None) / "winograd" / f"{key}.so"
    try:
        if not file.exists():
            _compile(compiler, file)
        made = ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        raise Unavailable(f"{compiler} does not compile it ({told.strip().splitlines()[-1][:200]})") from error
    for name in (*OF_IMAGES, *OF_KERNELS):
        function = getattr(made, name)
        function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_ssize_t] * (5 if name in OF_IMAGES else 2)
        function.restype = None
    return made


def _compile(compiler: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True)
        made.replace(file)  # whole, or not at all: other processes may be compiling too


def of_images(name: str, images: torch.Tensor, tiles: torch.Tensor) -> None:
    """Transform one into the other.

    Args:
        name: one of ``OF_IMAGES``.
        images: [images, channels, height, width], float32, channels last.
        tiles: [36, at least the tiles, channels], float32.
    """
    count, channels, height, width = images.shape
    getattr(library(), name)(images.data_ptr(), tiles.data_ptr(), count, height, width, channels, tiles.stride(0))


def of_kernels(name: str, kernels: torch.Tensor, transformed: torch.Tensor) -> None:
    """Transform one into the other.

    Args:
        name: one of ``OF_KERNELS``.
        kernels: [outputs, channels, 3, 3], float32, channels last.
        transformed: [36, outputs, channels], float32.
    """
    getattr(library(), name)(kernels.data_ptr(), transformed.data_ptr(), *kernels.shape[:2])


def tiles_of(height: int, width: int) -> int:
    return -(-height // TILE) * -(-width // TILE)
