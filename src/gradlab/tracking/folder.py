"""A run's folder: everything that a run leaves behind, each file by its name."""

import csv
import io
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from gradlab.disk import room_for
from gradlab.secrecy import redacted


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader, or a crash at any instant, meets the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with room_for(path, len(text)):
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class RunFolder:
    """The files of one run below ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "config.yaml"
        self.journal = self.path / "journal.jsonl"
        self.result = self.path / "result.json"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self.layers = self.path / "model" / "layers.txt"
        self.layer_states = self.path / "model" / "layer_states.csv"
        self.skipped = self.path / "skipped_images.csv"
        self.cut_rows = self.path / "journal.cut.jsonl"  # of a run that was gone on with, until it ends
        self.running = self.path / ".running"  # locked by the process that the run is in
        self.shipped = self.path / "mlflow.json"
        self.shipper_log = self.path / "shipper.log"
        self.console = self.path / "console.log"  # of a run in a sweep: the terminal shows the sweep

    @classmethod
    def create(cls, parent: Path, name: str) -> Self:
        """A new folder in ``parent``, named by time and run, readable by its owner only.

        ``mkdir`` decides between two runs of one second and one name, so no folder is ever used twice.
        """
        parent.mkdir(parents=True, exist_ok=True)
        safe = "".join(c if c.isalnum() or c in ".=-" else "_" for c in name)
        # Cut by bytes, not characters: file systems take 255 of them.
        stem = time.strftime("%Y-%m-%d_%H-%M-%S_") + safe.encode()[:100].decode(errors="ignore")
        for number in range(1, 10_000):
            path = parent / (stem if number == 1 else f"{stem}_{number}")
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return cls(path)
        raise FileExistsError(f"{parent / stem} and 9,999 numbered ones exist already")

    def write_result(self, result: dict[str, Any]) -> None:
        """``result.json``. The reason why a run failed may quote anything, so secrets are taken out of it."""
        if isinstance(result.get("reason"), str):
            result = {**result, "reason": redacted(result["reason"])}
        write_atomically(self.result, json.dumps(result, indent=2) + "\n")

    def write_skipped(self, reasons: Mapping[str, str]) -> None:
        """The list of images that were left out, each with the reason."""
        table = io.StringIO()
        csv.writer(table).writerows([("image", "reason"), *reasons.items()])
        write_atomically(self.skipped, table.getvalue())


class SweepFolder(RunFolder):
    """The files of one sweep below ``path``: what a run has, for the sweep as a whole, and the folders of its runs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.record = self.path / "sweep.json"
        self.runs = self.path / "runs"
        self.lock = self.path / ".lock"
        self.logs = self.path / "workers"
        self.jobs = self.path / "jobs"  # of a cluster, which may go on when the sweep's process has left

    def run_folders(self) -> list[RunFolder]:
        """The folders of the runs that have begun their journal, oldest first."""
        return [RunFolder(journal.parent) for journal in sorted(self.runs.glob("*/journal.jsonl"))]
