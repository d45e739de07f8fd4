"""``gradlab predict``: what a trained network says of pictures."""

import concurrent.futures
import csv
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt
import torch

from gradlab.data.pictures import PictureError, decode
from gradlab.errors import ConfigError
from gradlab.trained.find import Found
from gradlab.trained.network import Trained, open_trained

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
BATCH = 256


@dataclass(frozen=True)
class Answer:
    """What the network says of one picture: the likeliest classes with their probabilities, or why there is none."""

    path: Path
    classes: list[tuple[str, float]]
    error: str | None = None


def predict(
    found: Found,
    paths: list[Path],
    *,
    top: int,
    form: str,
    device: str,
    imports: list[str],
) -> int:
    """Print the classes of pictures; returns 1 if a picture could not be read, else 0.

    Args:
        found: the run.
        paths: pictures, and folders whose pictures are meant, with those of their subfolders.
        top: how many classes to name, the likeliest first.
        form: ``table``, ``csv`` or ``json``.
        device, imports: see ``open_trained``.

    Raises:
        ConfigError: the run is wrong, or was not trained on pictures.
    """
    trained = open_trained(found.checkpoint, device, imports)
    if trained.spec.channels not in (1, 3):
        raise ConfigError(f"The network was trained on data={trained.spec.name}, which are no pictures.")
    print(f"gradlab predict: {found.said}", file=sys.stderr)
    writer = WRITERS[form](sys.stdout, min(top, len(trained.spec.classes)))
    failed = []
    for answer in answers(trained, listed(paths), top):
        writer.write(answer)
        if answer.error is not None:
            failed.append(answer)
    writer.close()
    for answer in failed:
        about = "" if str(answer.path) in str(answer.error) else f"{answer.path}: "
        print(f"gradlab predict: {about}{answer.error}", file=sys.stderr)
    return 1 if failed else 0


def listed(paths: Iterable[Path]) -> Iterator[Path]:
    """The pictures: a file as it is given, whatever its name; of a folder those whose names end as pictures' do."""
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            yield from inside or [path]  # an empty folder fails by its own name
        else:
            yield path


def answers(trained: Trained, pictures: Iterable[Path], top: int) -> Iterator[Answer]:
    """One answer for each picture, in order. Pictures are decoded by threads, a batch ahead of the network."""
    spec, fit = trained.spec, str(trained.config["data"].get("fit", "resize"))
    pixels = int(trained.config["data"].get("max_pixels") or 100_000_000)

    def read(path: Path) -> npt.NDArray[np.uint8] | PictureError:
        try:
            if path.is_dir():
                raise PictureError("the folder holds no pictures")
            return decode(path, channels=spec.channels, size=(spec.height, spec.width), fit=fit, max_pixels=pixels)
        except PictureError as error:
            return error

    remaining = iter(pictures)
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:

        def started() -> list[tuple[Path, "concurrent.futures.Future[npt.NDArray[np.uint8] | PictureError]"]]:
            return [(path, threads.submit(read, path)) for path in itertools.islice(remaining, BATCH)]

        current = started()
        while current:
            ahead = started()
            yield from _answered(trained, [(path, future.result()) for path, future in current], top)
            current = ahead


def _answered(
    trained: Trained, pictures: list[tuple[Path, npt.NDArray[np.uint8] | PictureError]], top: int
) -> Iterator[Answer]:
    images = [content for _, content in pictures if not isinstance(content, PictureError)]
    likeliest: Iterator[list[tuple[str, float]]] = iter(())
    if images:
        raw = torch.from_numpy(np.stack(images)).to(trained.device)
        labels = torch.zeros(len(raw), dtype=torch.int64, device=trained.device)  # nobody knows them
        probabilities = trained.logits((raw, labels)).softmax(1)
        values, indices = probabilities.topk(min(top, len(trained.spec.classes)))
        likeliest = (
            [(trained.spec.classes[index], value) for index, value in zip(row, shares, strict=True)]
            for row, shares in zip(indices.tolist(), values.tolist(), strict=True)
        )
    for path, content in pictures:
        if isinstance(content, PictureError):
            yield Answer(path, [], str(content))
        else:
            yield Answer(path, next(likeliest))


class Writer(Protocol):
    """One form of the answers; ``top`` is the most classes that any of them names."""

    def __init__(self, file: TextIO, top: int) -> None: ...

    def write(self, answer: Answer) -> None: ...

    def close(self) -> None: ...


class TableWriter:
    """Lines for a person: classes with their probabilities, the path last."""

    def __init__(self, file: TextIO, top: int) -> None:
        self.file = file

    def write(self, answer: Answer) -> None:
        if answer.error is None:
            said = "  ".join(f"{name} {probability:.1%}" for name, probability in answer.classes)
            print(f"{answer.path}  {said}", file=self.file)

    def close(self) -> None:
        self.file.flush()


class CSVWriter:
    """``path,class,probability,class_2,probability_2,…,error``; probabilities from 0 to 1."""

    def __init__(self, file: TextIO, top: int) -> None:
        self.file, self.top = file, top
        numbered = [("", ""), *((f"_{rank}",) * 2 for rank in range(2, top + 1))]
        headings = [f"{word}{number[0]}" for number in numbered for word in ("class", "probability")]
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["path", *headings, "error"])

    def write(self, answer: Answer) -> None:
        cells: list[Any] = [value for pair in answer.classes for value in pair]
        cells += [""] * (2 * self.top - len(cells))
        self._writer.writerow([answer.path, *cells, answer.error or ""])

    def close(self) -> None:
        self.file.flush()


class JSONWriter:
    """A list of ``{"path", "classes": [{"class", "probability"}], "error"}``."""

    def __init__(self, file: TextIO, top: int) -> None:
        self.file = file
        self._separator = "["

    def write(self, answer: Answer) -> None:
        classes = [{"class": name, "probability": probability} for name, probability in answer.classes]
        row = {"path": str(answer.path), "classes": classes, "error": answer.error}
        self.file.write(f"{self._separator}\n  {json.dumps(row)}")
        self._separator = ","

    def close(self) -> None:
        self.file.write(f"{self._separator if self._separator == '[' else ''}\n]\n")
        self.file.flush()


WRITERS: dict[str, type[Writer]] = {"table": TableWriter, "csv": CSVWriter, "json": JSONWriter}
