"""The journal: every metric row of a run and every event that concerns its record, one JSON object to a line.

It is the source of truth; MLflow is a view of it. Kinds of record:

* ``run``: name, experiment, parameters, tags, start time, and the ``process`` that runs it; of a run in a sweep also the
  sweep's id (``parent``) and the point's. The first line.
* ``metrics``: step and values.
* ``artifact``: a file or folder below the run's folder, and the artifact folder it belongs to.
* ``tags``: tags that are known only later.
* ``end``: status, FINISHED, FAILED or KILLED in MLflow's words. The last line, unless it was resumed:
* ``resumed``: it runs again, in the ``process`` that is named; of a run, from which ``step`` on, and with what in its configuration
  ``changed``.

Each record carries ``time``, milliseconds since 1970, and keeps it however often it is shipped. A value that is no
finite number is written as ``"nan"``, ``"inf"`` or ``"-inf"``, which JSON lacks. A secret of the environment is never written.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from gradlab.disk import room_for
from gradlab.secrecy import redactor
from gradlab.tracking.liveness import identity

Record = dict[str, Any]


class Retaken(Protocol):
    """Rows that a run had written before it was killed, of steps that it makes again (``retaking.py``)."""

    def take(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """The time and values of the row that there was already, where it is this one; else nothing."""


class Journal:
    """Appends records to ``path``. Each is handed to the operating system at once, so a killed process loses none.

    Args:
        path: of the file.
        retaken: rows of the run that is gone on with; or None.
    """

    def __init__(self, path: Path, retaken: "Retaken | None" = None) -> None:
        self.path = path
        self.retaken = retaken
        _drop_torn_line(path)
        self._file = path.open("ab", buffering=0)

    def write(self, kind: str, **content: Any) -> None:
        """Append one record of ``kind``, whole or not at all.

        Raises:
            DiskFullError: there is no room for it.
        """
        record = {"kind": kind, "time": time.time_ns() // 1_000_000, **content}
        if kind in ("run", "resumed"):
            record["process"] = identity()
        if kind in ("run", "tags"):
            record = _each_text(record, redactor())
        line = (json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n").encode()
        written = 0
        with room_for(self.path, len(line)):
            try:
                while written < len(line):
                    written += self._file.write(line[written:])
            except OSError:
                # The part that found room must not become the beginning of the next record.
                os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
                raise

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row: ``values`` after ``step`` optimizer steps."""
        encoded = {name: encode(value) for name, value in values.items()}
        again = self.retaken.take(step, encoded) if self.retaken else {}
        self.write("metrics", **{"step": step, "values": encoded, **again})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Append that ``path``, below the run's folder, is an artifact of the run in the artifact ``folder``."""
        self.write("artifact", path=str(path.relative_to(self.path.parent)), folder=folder)

    def flush(self) -> int:
        """Bring what was appended to the disk; returns how many bytes the journal has."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def _each_text(node: Any, change: Callable[[str], str]) -> Any:
    """``node`` with every text in it, but for keys, changed."""
    if isinstance(node, dict):
        return {key: _each_text(child, change) for key, child in node.items()}
    return change(node) if isinstance(node, str) else node


def _drop_torn_line(path: Path) -> None:
    """Cut a last line that its writer died over, so that the next record does not join it."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def encode(value: float) -> float | str:
    """A number as JSON can hold it."""
    return float(value) if math.isfinite(value) else str(float(value))


def records(path: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """The complete records of ``path`` from byte ``offset`` on, each with the offset behind it.

    A last line without its end is one that is being written, or was when its writer died: it is left alone.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield json.loads(line), offset


def metric_rows(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Every metric row of a journal: the step and its values, non-finite ones as floats."""
    for record, _ in records(path):
        if record["kind"] == "metrics":
            yield record["step"], {name: float(value) for name, value in record["values"].items()}
