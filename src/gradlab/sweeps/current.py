"""The sweep of this process: what ``entry`` begins and ends, and Hydra's launcher finds. Imports next to nothing.

Hydra's sweeper calls the launcher once, or once for each batch of points that it decides on, and tells nobody which is the last.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gradlab.errors import ConfigError, GradlabError

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from gradlab.sweeps.session import Session

_CURRENT: ContextVar["Current"] = ContextVar("the sweep of this process")


class Current:
    """The place of a sweep, which is there from its first points on.

    Args:
        command: the command line, for the record.
        explain: one message for an error of Hydra's.
    """

    def __init__(self, command: list[str], explain: Callable[[Exception], str]) -> None:
        self.command = command
        self.explain = explain
        self.session: Session | None = None

    @contextlib.contextmanager
    def found_by_the_launcher(self) -> Iterator[None]:
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def finish(self, stopped: str | None = None) -> int:
        """End the sweep, where there is one; see ``Session.finish``."""
        return self.session.finish(stopped) if self.session else 0


def launch(
    loader: Any, master: "DictConfig", points: Sequence[list[str]], settings: dict[str, Any]
) -> "list[JobReturn]":
    """What the launcher does: run ``points`` in the sweep of this process, and hand Hydra a result for each.

    A result is the best validation accuracy; None for a point that failed or diverged before the first validation.
    """
    from hydra.core.utils import JobReturn, JobStatus

    from gradlab.sweeps.settings import launching

    accuracies = _session().launch(loader, master, points, launching(settings))
    return [
        JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=accuracy)
        for overrides, accuracy in zip(points, accuracies, strict=True)
    ]


def search(
    loader: Any,
    master: "DictConfig",
    arguments: Sequence[str],
    launcher: dict[str, Any] | None,
    settings: dict[str, Any],
) -> None:
    """What the Optuna sweeper does. ``launcher`` are the settings of gradlab's own launcher; None where it is another.

    Raises:
        ConfigError: a setting is wrong, or the search is impossible.
    """
    from gradlab.sweeps.searching import searching
    from gradlab.sweeps.settings import launching
    from gradlab.sweeps.space import read_space

    if launcher is None:
        raise ConfigError("hydra/sweeper=gradlab_optuna needs hydra/launcher=gradlab, which tells it how points ended.")
    chosen, launched = searching(settings), launching(launcher)
    space = read_space(arguments, chosen.params, loader)

    from gradlab.sweeps.search import run_search

    run_search(_session(), loader, master, space, launched, chosen)


def _session() -> "Session":
    from gradlab.sweeps.session import Session

    try:
        current = _CURRENT.get()
    except LookupError:
        raise GradlabError("gradlab's launcher and sweeper run gradlab's train.py only.") from None
    current.session = current.session or Session(current.command, current.explain)
    return current.session
