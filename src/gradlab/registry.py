"""Registries: from the name of a choice to the dataclass that holds, checks and builds it.

One registry stands for one configuration axis, and its names are the file names in ``configs/<axis>/``. An entry is a
frozen dataclass whose fields are the keys of that YAML; the numbers are in the YAML only. A user's own module joins by
the same decorator and by being named in ``imports``.
"""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from gradlab.errors import ConfigError, did_you_mean

T = TypeVar("T")
Entry = TypeVar("Entry", bound=type[Any])


class Registry(Generic[T]):
    """The choices of one configuration axis, by name."""

    def __init__(self, axis: str) -> None:
        self.axis = axis
        self._entries: dict[str, type[T]] = {}

    def register(self, *names: str) -> Callable[[Entry], Entry]:
        """A class decorator that enters a dataclass under each of ``names``."""

        def enter(entry: Entry) -> Entry:
            for name in names:
                taken = self._entries.get(name)
                # The same class again is a reloaded module.
                if taken and (taken.__module__, taken.__qualname__) != (entry.__module__, entry.__qualname__):
                    raise ValueError(f"{self.axis} '{name}' is registered already, by {taken}")
                self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._entries:
            raise ConfigError(
                f"There is no {self.axis} '{name}'.{did_you_mean(name, self._entries)} Choices: {', '.join(sorted(self))}."
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
