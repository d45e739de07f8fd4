"""``find_lr=true``: the rate is searched for before a run, which then trains with what was found and records it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gradlab.config import Config
from gradlab.finder.search import Found, find
from gradlab.finder.words import sentences
from gradlab.interruption import Interruption
from gradlab.tracking.folder import RunFolder
from gradlab.tracking.journal import Journal

if TYPE_CHECKING:
    from gradlab.data.datasets import Dataset
    from gradlab.data.datasets.base import Splits


@dataclass(frozen=True)
class Chosen:
    """The configuration that the run trains: with the suggested rate, or unchanged where the search is not sure."""

    config: Config
    found: Found

    @property
    def told(self) -> dict[str, Any]:
        """For the run's result: the answer, and the rate that the run has."""
        return {**self.found.told(), "chosen": self.config.optimizer.lr}

    def record(self, folder: RunFolder, journal: Journal) -> None:
        """Put the curves into the run's folder and, with one line of tags, into its record."""
        place = folder.path / "find_lr"
        place.mkdir()
        self.found.write(place / "find_lr.json")
        if self.config.plots:
            from gradlab.finder.figure import draw

            draw(self.found, place / "find_lr.png")
        journal.artifact(place, "find_lr")
        journal.write("tags", tags={"gradlab.find_lr": self.verdict})

    @property
    def verdict(self) -> str:
        """One line."""
        was = f"{self.found.configured:.6g}"
        if self.found.sure:
            return f"found {self.config.optimizer.lr:.3g}, configured {was}"
        return f"kept the configured {was}; not sure: {self.found.reading.doubt}"


def choose_rate(config: Config, load: "Callable[[Dataset], Splits] | None", interruption: Interruption) -> Chosen:
    """Search for the learning rate of ``config``, and tell what came of it. ``load`` gives its images, perhaps kept ones; or None.

    Raises:
        Interrupted: a signal asked for the end.
        GradlabError: the data cannot be read.
    """
    config.data.fetch()
    found = find(config, lambda: load(config.data) if load else config.data.load(), interruption)
    if found.sure:
        assert found.suggestion is not None
        config = with_rate(config, found.suggestion)
    chosen = Chosen(config, found)
    lines = [*sentences(found)[:2], f"find_lr: {chosen.verdict}"]
    Console().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return chosen


def with_rate(config: Config, rate: float) -> Config:
    """``config`` with ``rate`` as ``optimizer.lr``, in its record too."""
    optimizer: Any = config.optimizer
    composed = {**config.composed, "optimizer": {**config.composed["optimizer"], "lr": rate}}
    return dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, lr=rate), composed=composed)
