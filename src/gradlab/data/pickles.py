"""Python's pickles, as old datasets are published in them, read without running what they name.

A pickle is a program: it may call whatever it can name. This reader knows four names, the ones by which numpy writes an
array of numbers, and refuses every other before anything is called.
"""

import io
import pickle
from typing import Any

import numpy as np

from gradlab.data.files import Content
from gradlab.errors import DataError

# Of C, all of them: a pickle can also set attributes of what it has named, and those of a Python function would do harm.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Builds numbers, texts, lists, dictionaries and numpy arrays, and nothing else."""

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
    """The dictionary in a pickle, its keys as text. Those of Python 2, whose texts were bytes, are read too.

    Raises:
        DataError: it is not a pickle, is damaged, holds something else, or names what it must not.
    """
    try:
        found = _ArraysOnly(io.BytesIO(content.data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises whatever its next instruction happens to raise
        raise DataError(f"{content.where} is refused: it is no pickle of arrays alone ({error}).") from error
    if not isinstance(found, dict):
        raise DataError(f"{content.where} is refused: it holds no dictionary, but an object of {type(found).__name__}.")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
