"""Which steps a run takes: eager ones, on a GPU captured ones, or those of one compiled function. Compiling takes
seconds, so it must pay for the run; capturing takes a few steps.

``trainer.speed=safe`` takes eager steps, ``max`` compiled ones wherever there are any, and ``auto`` decides by the length of
the run. It asks in three stages, each dearer than the one before, and ends as soon as the answer is known: the work of a
step, which bounds the time that the run can take; a few eager steps of a copy of the network, timed; the compilation
itself. What was measured and chosen is remembered for the machine, so that the same command makes the same choice again,
whose bits are its own; and a run that is gone on with keeps the choice of its checkpoint.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab import environment
from gradlab.data.cache import cache_folder, key_of
from gradlab.tracking.folder import write_atomically

if TYPE_CHECKING:
    from gradlab.rehearsal import Rehearsal

EAGER, CAPTURED, COMPILED = "eager", "captured", "compiled"

CALL, RATE = 150e-6, 2e9
"""Seconds that a layer costs an eager step beside its arithmetic, and multiply-adds of a step in a second, both ways, on one
thread: so slow that hardly any machine is slower. They only tell runs that are over before a compilation would be."""
LEAST_COMPILING = 4.0
"""Seconds: no compilation was faster, its files remembered by torch or not."""
COMPILING, COMPILING_CALL = 8.0, 0.7
"""Seconds that a compilation takes, and for each layer more; until one of this network has been timed."""
LEAST_RATIO = 0.25
"""No compiled step was a smaller share of the eager one."""
CONVOLUTIONS_RATIO = 0.8
"""That share, until one has been timed, of networks with convolutions: those are the same library's in both."""
OURS_RATIO = 0.6
"""Where they are our own in compiled steps (``gradlab.cpu``): from 0.45 for a ResNet-9 to 0.6 for a LeNet."""
COMPILED_CALL, PRODUCTS_RATE = 100e-6, 40e9
"""What a compiled step takes at least, until one has been timed: so many seconds, and those of its multiply-adds, of which a thread
makes so many in a second."""
CAPTURED_RATIO = 0.7
"""The share of a captured step that a compiled one takes, until one has been timed."""
WORTH_CAPTURING = 50
"""Steps of a run on a GPU from which on they are captured."""
WORTH_TRYING = 20
"""A run as long as so many compilations tries one in any case: it costs that run a twentieth."""


@dataclass(frozen=True)
class Work:
    """What an eager step has to do.

    layers: calls of layers in a forward pass.
    multiply_adds: of a forward pass over the whole mini-batch; the backward pass costs twice that.
    convolutions: whether there are any.
    threads: of torch.
    ours: what share of the multiply-adds a compiled step has in convolutions of our own.
    """

    layers: int
    multiply_adds: int
    convolutions: bool
    threads: int = 1
    ours: float = 0.0

    @property
    def seconds_at_most(self) -> float:
        return CALL * self.layers + 3 * self.multiply_adds / RATE

    def compiled_estimate(self, eager: float) -> float:
        """Seconds of a compiled step, where an eager one takes ``eager``."""
        products = COMPILED_CALL + 3 * self.multiply_adds / PRODUCTS_RATE / self.threads
        least = CONVOLUTIONS_RATIO + (OURS_RATIO - CONVOLUTIONS_RATIO) * self.ours if self.convolutions else LEAST_RATIO
        return min(max(products / eager, least), 1.0) * eager


@dataclass
class Paces:
    """What was measured on this machine of one network and batch, in seconds; None where it was not.

    eager, captured, compiled: of a step.
    compiling: of the compilation.
    chosen: for runs of so many steps, by their number as text.
    obstacle: why nothing can be compiled.
    """

    eager: float | None = None
    compiled: float | None = None
    compiling: float | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    obstacle: str | None = None
    captured: float | None = None

    @property
    def plain(self) -> float:
        """Of a step that is not compiled."""
        seconds = self.eager if self.captured is None else self.captured
        assert seconds is not None
        return seconds


@dataclass(frozen=True)
class Speed:
    """What a run does: ``steps`` is ``eager``, ``captured`` or ``compiled``, ``line`` says why, for a person."""

    steps: str
    line: str = ""


def choose(
    asked: str,
    kept: str | None,
    steps: int,
    work: Work,
    rehearse: "Callable[[], Rehearsal]",
    memory: "Memory",
    captures: bool = False,
) -> Speed:
    """Which steps a run takes. Compiled ones have been compiled when this returns.

    Args:
        asked: ``trainer.speed``.
        kept: the choice of the checkpoint that the run goes on from; or None.
        steps: of the run.
        work: of a step.
        rehearse: gives what tries the steps out.
        memory: of this machine, for this network and batch.
        captures: whether steps can be captured: the device is a GPU.
    """
    if asked == "safe" or (asked == "auto" and kept == EAGER):
        return Speed(EAGER)
    if asked == "max" or kept == COMPILED:
        tried = rehearse().compiled(timed=False)
        return Speed(EAGER, f"eager steps: {tried}") if isinstance(tried, str) else Speed(COMPILED, "compiled steps")
    if kept == CAPTURED:
        paces = memory.recall()
        if not captures or paces.captured is None:
            timed = rehearse().captured()
            if isinstance(timed, str):
                return Speed(EAGER, f"eager steps: {timed}")
            paces.captured = timed
            memory.keep(paces)
        return Speed(CAPTURED, "captured steps")
    if captures and steps < WORTH_CAPTURING:
        return Speed(EAGER, f"eager steps: {steps:,} are too few to be captured")
    if steps * work.seconds_at_most * (1 - LEAST_RATIO) < LEAST_COMPILING and not captures:
        return Speed(EAGER, f"eager steps: all {steps:,} are over before a compilation would be")
    paces = memory.recall()
    if paces.obstacle and not captures:
        return Speed(EAGER, f"eager steps: {paces.obstacle} (remembered; trainer.speed=max tries again)")
    chosen = paces.chosen.get(str(steps))
    rehearsal = rehearse()
    if captures and paces.captured is None:
        timed = rehearsal.captured()
        captures = not isinstance(timed, str)
        paces.captured = timed if isinstance(timed, float) else None
    if not captures and paces.eager is None:
        timed = rehearsal.eager()
        if isinstance(timed, str):
            return Speed(EAGER, f"eager steps: {timed}")
        paces.eager = timed
    plain = EAGER if paces.captured is None else CAPTURED
    if chosen is None:
        chosen = plain if paces.obstacle else decide(steps, paces, work)
    if chosen == COMPILED:
        tried = rehearsal.compiled()
        if isinstance(tried, str):
            paces.obstacle = tried
            memory.keep(paces)
            return Speed(plain, f"{plain} steps: {tried}")
        if paces.compiled is None:
            paces.compiling, paces.compiled = tried
            # It has been compiled: what that took is spent, and all that counts from here on is the pace.
            chosen = COMPILED if paces.compiled < paces.plain else plain
    remembered = str(steps) in paces.chosen
    paces.chosen[str(steps)] = chosen
    memory.keep(paces)
    return Speed(chosen, f"{chosen} steps: {figures(steps, paces, work)}{' (remembered)' if remembered else ''}")


def decide(steps: int, paces: Paces, work: Work) -> str:
    """The steps that a run of so many should take, by what was measured, and by estimates where it was not."""
    plain, compiled, compiling = estimates(paces, work)
    if paces.compiled is None and steps * plain > WORTH_TRYING * compiling:
        return COMPILED
    if steps * (plain - compiled) > compiling:
        return COMPILED
    return EAGER if paces.captured is None else CAPTURED


def estimates(paces: Paces, work: Work) -> tuple[float, float, float]:
    """Seconds of a step that is not compiled, of one that is, and of the compilation."""
    if paces.compiled is not None and paces.compiling is not None:
        return paces.plain, paces.compiled, paces.compiling
    estimate = work.compiled_estimate(paces.plain) if paces.captured is None else CAPTURED_RATIO * paces.captured
    return paces.plain, estimate, COMPILING + COMPILING_CALL * work.layers


def figures(steps: int, paces: Paces, work: Work) -> str:
    """``0.23 ms against 0.71 ms, 60,000 steps save 28 s for 7 s of compiling``."""
    plain, compiled, compiling = estimates(paces, work)
    about = "about " if paces.compiled is None else ""
    told = f"compiled {about}{1e3 * compiled:.3g} ms against {1e3 * plain:.3g} ms"
    if compiled >= plain:
        return told
    return f"{told}, {steps:,} steps save {about}{steps * (plain - compiled):,.0f} s for {about}{compiling:,.0f} s of compiling"


class Memory:
    """What was measured and chosen on this machine.

    Args:
        what: the network, its batch, and all that decides how fast a step is.
        threads: of torch.
        device: what computes, in words.
        folder: of the files; by default in the user's cache.
    """

    def __init__(self, what: str, threads: int, device: str, folder: Path | None = None) -> None:
        machine = (environment.processor(), sorted(environment.versions().items()), threads, device)
        self.file = (folder or cache_folder(None) / "speed") / f"{key_of(what, machine)}.json"

    def recall(self) -> Paces:
        """What is remembered; nothing where that cannot be read."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Paces(**json.loads(self.file.read_text()))
        return Paces()

    def keep(self, paces: Paces) -> None:
        """Remember it; where that cannot be, it is measured again next time."""
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self.file, json.dumps(asdict(paces)))
