"""A worker as the sweep sees it, wherever it is: the points that it has, what it has said, and what it is told."""

import abc
from pathlib import Path
from typing import Any

from gradlab.sweeps.record import Point

Message = dict[str, Any]


class Worker(abc.ABC):
    """Trains the groups of points that it is given; each executor has a kind of its own.

    ``points`` is what it has and has not handed back, ``measuring`` the group that it measures, ``said`` its last ``progress``
    event, and ``ready`` whether it has imported everything. ``begun`` are the ids of the points whose training it has begun.
    """

    queues = False
    """Whether what it is given may wait for a machine first."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.begun: set[str] = set()
        self.measuring: str | None = None
        self.ready = False
        self.said: Message = {}
        self.astray = False
        """Whether it was its machine that died, which is no fault of its points."""

    @property
    def idle(self) -> bool:
        """Whether it waits for points."""
        return self.ready and not self.points and self.measuring is None

    def run(self, points: list[Point], folders: list[Path], parent: str, command: list[str]) -> None:
        """Have it train ``points``, each in a folder of its own; several as a population. Those that go on are in theirs."""
        self.points, self.said = [*self.points, *points], {}
        told = [
            {"point": point.id, "name": point.name, "config": point.config.composed, "folder": str(folder)}
            | {"goes_on": point.goes_on, "plan": point.plan, "steps": point.steps}
            for point, folder in zip(points, folders, strict=True)
            if point.config is not None
        ]
        self.send({"do": "run", "points": told, "parent": parent, "command": command})

    def measure(self, group: str, points: list[Point], memory: int, workers: int) -> None:
        """Have it measure how fast ``points``, all of ``group``, are trained, within ``memory`` bytes, as one of ``workers``."""
        self.measuring = group
        config = points[0].config
        assert config is not None
        self.send(
            {"do": "measure", "config": config.composed, "count": len(points), "memory": memory, "workers": workers}
        )

    def prune(self, point: Point, reason: str) -> None:
        """Have it end ``point``, and no other, after the step that it is in."""
        self.send({"do": "prune", "point": point.id, "reason": reason})

    def stop(self) -> None:
        """Have it end its points after the step that it is in."""
        self.send({"do": "stop"})

    @abc.abstractmethod
    def send(self, command: Message) -> None:
        """Tell it a command of ``worker.py``. Where it has died, that is noticed by ``Executor.look``."""

    @abc.abstractmethod
    def died_of(self) -> str:
        """What ended it, in words; once ``Executor.look`` says that it is no more."""

    @property
    def last_words(self) -> str:
        """The last line of what it has written about itself, for the message that none can start."""
        return ""
