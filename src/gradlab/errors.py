"""The errors that a user can cause. Each message says what is wrong, why, and what to do."""

import difflib
from collections.abc import Iterable


class GradlabError(Exception):
    """Something outside gradlab's own code went wrong; shown as one message, without a traceback. Exit status 1."""


class ConfigError(GradlabError):
    """The configuration is wrong; said before any data or device is touched. Exit status 2."""


class DataError(GradlabError):
    """A data file is damaged or is not what it should be."""


class CheckpointError(GradlabError):
    """A checkpoint is damaged, or does not belong to this model."""


class FieldError(ValueError):
    """One number of a choice is wrong. The configuration bridge adds the full key and where it was set.

    ``field`` is the dataclass field's name, and the message goes on from it: ``must be above 0, not -1``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A sentence that names the option nearest to ``name``, with a space before it, or an empty string."""
    options = list(options)
    # Two letters in the wrong order are one slip of the fingers: 'adma' is 'adam', and to difflib it is 'adamax'.
    swapped = [option for option in options if sorted(option) == sorted(name)]
    near = swapped[:1] or difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the memory of the device, or of the machine, did not suffice."""
    if error.__cause__ is not None and is_out_of_memory(error.__cause__):
        return True
    # torch's CPU allocator raises a plain RuntimeError, CUDA's a subclass named OutOfMemoryError.
    said = isinstance(error, RuntimeError) and ("memory" in str(error) or "bad_alloc" in str(error))
    # safetensors is written in Rust, which panics where Python has no memory for what it returns.
    panicked = type(error).__name__ == "PanicException" and "pointer is null" in str(error)
    return isinstance(error, MemoryError) or said or panicked
