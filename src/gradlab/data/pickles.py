"""Python's pickles, as old datasets are published in them, read without running what they name.

A pickle is a program: it may call whatever it can name. This reader knows the three names by which numpy writes an array,
refuses every other, and puts mere records of arguments in the place of those three: numpy's own would take a forged
state, and then read and write where it should not. Arrays of bytes are made of the records afterwards.
"""

import io
import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from gradlab.data.files import Content
from gradlab.errors import DataError


class _Record:
    """What numpy's ``_reconstruct`` and ``dtype`` are called with, and the state that is set on what they return."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArrayRecord(_Record):
    __slots__ = ()

    def array(self) -> npt.NDArray[np.uint8]:
        """The array of bytes that this is the record of; ``ValueError`` where it is the record of anything else."""
        _, shape, dtype, by_columns, raw = self.state
        if not isinstance(dtype, _TypeRecord) or dtype.arguments[0] not in ("u1", b"u1"):
            raise ValueError("an array in it is not one of bytes")
        if not isinstance(raw, bytes) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array in it has no bytes or no shape")
        if len(raw) != math.prod(shape):
            raise ValueError(f"an array in it has {len(raw):,} bytes, which is not {' × '.join(map(str, shape))}")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _TypeRecord(_Record):
    __slots__ = ()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _ArrayRecord,
    ("numpy._core.multiarray", "_reconstruct"): _ArrayRecord,
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, and no more
    ("numpy", "dtype"): _TypeRecord,
}


class _ArraysOnly(pickle.Unpickler):
    """Builds numbers, texts, lists, dictionaries and records of numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and a pickle of arrays has no use for it"
            ) from None

    def persistent_load(self, identity: Any) -> Any:
        raise pickle.UnpicklingError("it asks for an object outside of it")


def dictionary_of_arrays(content: Content) -> dict[str, Any]:
    """The dictionary in a pickle: its keys as text, its arrays of bytes as arrays, texts of Python 2 as bytes.

    Raises:
        DataError: it is not a pickle, is damaged, holds something else, or names what it must not.
    """
    try:
        found = _ArraysOnly(io.BytesIO(content.data), encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError(f"it holds no dictionary, but an object of type {type(found).__name__}")
        return {
            key.decode("latin-1") if isinstance(key, bytes) else str(key): (
                value.array() if isinstance(value, _ArrayRecord) else value
            )
            for key, value in found.items()
        }
    except Exception as error:  # a damaged pickle raises whatever its next instruction happens to raise
        reason = str(error) or type(error).__name__
        raise DataError(f"{content.where} is refused: it is no pickle of arrays alone ({reason}).") from error
