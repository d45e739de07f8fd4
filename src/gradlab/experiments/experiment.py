"""What an experiment is: a question, the commands that answer it, and how their runs are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradlab.analysis.grouping import Grouped, group
from gradlab.analysis.metric import DEFAULT, Metric
from gradlab.analysis.records import Run
from gradlab.analysis.sources import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = "<pictures>"
"""Stands for the user's folder or archive of pictures in a form's commands."""


@dataclass(frozen=True)
class Form:
    """An experiment on some data.

    name: of the data, as ``--data`` takes it: ``pictures``, ``digits``, ``moons``, ``circles``, ``mnist``, …
    commands: overrides, each for one ``python train.py``.
    quick: overrides that make each a matter of seconds.
    quick_commands: how many of the commands are run then; None for all.
    refine: from the runs of the commands to further ones that choose between what did best in them; left out of the quick size.
    follow: from all of these runs to the last ones, which depend on what came out; at the best rate, say.
    full: overrides that make each as large as the question wants it, hours on a CPU; None where it is that large already.
    published: whether it reads a published dataset's files, which must be there.
    """

    name: str
    commands: Sequence[Sequence[str]]
    quick: Sequence[str]
    quick_commands: int | None = None
    follow: "Callable[[Ran], Sequence[Sequence[str]]] | None" = None
    full: Sequence[str] | None = None
    published: bool = False
    refine: "Callable[[Ran], Sequence[Sequence[str]]] | None" = None

    @property
    def wants_pictures(self) -> bool:
        return any(PICTURES in word for command in self.commands for word in command)

    @property
    def embedded(self) -> bool:
        """Whether it runs anywhere at once, without a file."""
        return not self.wants_pictures and not self.published


@dataclass(frozen=True)
class Finding:
    """One answer. ``said`` is the sentence, with its numbers.

    key: what is answered, the same in every run of the experiment.
    value: the answer itself, without numbers that differ from seed to seed.
    also: other answers that these runs do not rule out.
    """

    key: str
    value: str
    said: str
    also: tuple[str, ...] = ()

    def agrees_with(self, other: "Finding") -> bool:
        """Whether neither answer is ruled out by the other's runs."""
        return self.value in (other.value, *other.also) and other.value in (self.value, *self.also)


@dataclass(frozen=True)
class Ran:
    """The runs of a form's commands, a source for each command, in their order.

    followed: those of the commands that depend on what came out.
    refined: those of the commands that choose between the best.
    """

    form: Form
    sources: Sequence[Source]
    followed: Sequence[Source] = ()
    refined: Sequence[Source] = ()

    @property
    def runs(self) -> list[Run]:
        """All of them but the followed ones, and points of a larger, resumed sweep that have not begun."""
        return [run for command in range(len(self.sources)) for run in self.of(command)]

    def of(self, command: int) -> list[Run]:
        """The runs of one command."""
        return _begun(self.sources[command])

    def again(self) -> list[Run]:
        """The runs of the commands that choose between the best."""
        return [run for source in self.refined for run in _begun(source)]

    def after(self) -> list[Run]:
        """The runs of the commands that depend on what came out."""
        return [run for source in self.followed for run in _begun(source)]

    def grouped(self, command: int | None = None, metric: str = DEFAULT) -> Grouped:
        """The settings of one command's runs, or of all."""
        return group(self.runs if command is None else self.of(command), Metric(metric))


def _begun(source: Source) -> list[Run]:
    return [run for run in source.runs if run.status != "waiting"]


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to: a table, findings and a figure.

    rows: of the results file; one to a run.
    files: further texts of the record, by their names.
    """

    headings: Sequence[str]
    table: Sequence[Sequence[str]]
    findings: Sequence[Finding]
    figure: "Figure"
    rows: Sequence[dict[str, object]] = field(default_factory=list)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A question.

    name: as the command takes it.
    folder: below ``experiments/``.
    question: the headline.
    text: what is done and why, in Markdown; holds no result.
    forms: the first is the one of the question; the embedded one needs no file.
    examine: from its runs to what they say.
    own_run: where it runs other commands than ``train.py``: runs and reads them.
    """

    name: str
    folder: str
    question: str
    text: str
    forms: Sequence[Form]
    examine: Callable[[Ran], Outcome] | None = None
    own_run: Callable[[Sequence[Sequence[str]]], Outcome] | None = None

    @property
    def embedded(self) -> Form:
        """The form that runs anywhere at once."""
        return next(form for form in self.forms if form.embedded)

    def form(self, name: str) -> Form | None:
        return next((form for form in self.forms if form.name == name), None)
