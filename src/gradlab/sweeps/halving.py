"""Which settings of a sweep are hopeless: successive halving in the form that stops and never waits. Decisions only.

Rungs lie at ``first``, ``first · factor``, ``first · factor²``, … of a point's training, the last at 1/``factor`` of it at most:
to stop a point later saves little and costs its result. A point arrives at a rung by its first validation there. The best
⌈n/factor⌉ of the n settings that have arrived at a rung may go on, and the others are stopped (Jamieson and Talwalkar, 2016;
the count is scikit-learn's). Successive halving proper lets all wait at a rung for the last; workers that train one point
after the other cannot. So a setting is judged among those that have arrived before it, which is the stopping form of ASHA (Li
et al., 2020) that Ray and Optuna have, too: early ones are judged leniently. ``again`` judges it once more whenever another
arrives at the rung that it was last at, for as long as it trains: where all train side by side that is successive halving.

*Settings* are judged and not points, because the seeds of a setting are repetitions of it, and the luckiest seed says little:

* by the mean over those of its seeds that have arrived; where one has diverged, as worse than any setting that lost fewer;
* once ``quorum`` of its seeds, by default half of them, have arrived, and none of those in training is still on its way;
* all its seeds together: those in training end, those that begin later end at their first rung, so that each says as much.

What was stopped stays stopped. The same arrivals in the same order have the same end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


def rungs(first: float, factor: float, total: int) -> list[int]:
    """The steps of the rungs in a training of ``total`` steps whose first is at step ``first``; there may be none."""
    found: list[int] = []
    step = first
    while step >= 1 and step * factor <= total * (1 + 1e-9):
        found.append(math.floor(step + 0.5))
        step *= factor
    return found


@dataclass
class _Point:
    """What is known of a point: its rungs, and (accuracy, loss) at each that it has arrived at."""

    setting: "_Setting"
    rungs: Sequence[int]
    values: list[tuple[float, float]] = field(default_factory=list)
    training: bool = False
    diverged: bool = False

    def arrived(self, rung: int) -> bool:
        """Whether it says something about its setting there; a diverged one does, from then on."""
        return self.diverged or len(self.values) > rung


@dataclass
class _Setting:
    name: str
    points: dict[str, _Point] = field(default_factory=dict)
    passed: int = -1
    stopped: str | None = None

    def arrived(self, rung: int) -> list[_Point]:
        return [point for point in self.points.values() if point.arrived(rung)]

    def merit(self, rung: int) -> tuple[float, float, float]:
        """The higher the better: share of seeds that did not diverge, mean accuracy, mean loss with its sign turned."""
        arrived = self.arrived(rung)
        values = [point.values[rung] for point in arrived if len(point.values) > rung and not point.diverged]
        if not values:
            return (0.0, -math.inf, -math.inf)
        accuracy, loss = (math.fsum(column) / len(values) for column in zip(*values, strict=True))
        return (len(values) / len(arrived), accuracy, -loss)


class Halving:
    """The settings of a sweep, and which of them have been stopped.

    Args:
        factor: of n settings at a rung ⌈n/factor⌉ go on; above 1.
        again: whether a setting is judged again when others arrive at its last rung.
        quorum: seeds of a setting, at least, by which it is judged; None for half of its seeds.
    """

    def __init__(self, factor: float, again: bool, quorum: int | None = None) -> None:
        self.factor = factor
        self.again = again
        self.quorum = quorum
        self._settings: dict[str, _Setting] = {}
        self._points: dict[str, _Point] = {}

    # ------------------------------------------------------------------ what happens

    def add(self, point: str, setting: str, steps: Sequence[int]) -> None:
        """A point of the sweep that has yet to begin, with the steps of its rungs. One that is known is left as it is."""
        if point not in self._points:
            owner = self._settings.setdefault(setting, _Setting(setting))
            self._points[point] = owner.points[point] = _Point(owner, steps)

    def begun(self, point: str) -> None:
        """Its training begins, perhaps once more: what an earlier try of it said is forgotten."""
        found = self._points[point]
        found.training, found.diverged, found.values = True, False, []

    def validated(self, point: str, step: int, accuracy: float, loss: float) -> dict[str, str]:
        """A point was validated after ``step`` steps. Returns the points to end now, each with the reason.

        Args:
            point: one that trains.
            step: optimizer steps made.
            accuracy: validation accuracy, 0 to 1.
            loss: validation loss; what is not finite counts as diverged.
        """
        found = self._points[point]
        before = len(found.values)
        if not math.isfinite(accuracy) or not math.isfinite(loss):
            found.diverged = True
            return self._judge_all(found.setting, before)
        self._arrive(found, step, accuracy, loss)
        hopeless: dict[str, str] = {}
        for rung in range(before, len(found.values)):
            hopeless |= self._judge_all(found.setting, rung)
        return hopeless

    def ended(self, point: str, diverged: bool) -> dict[str, str]:
        """A point trains no more, for whatever reason. Returns the points to end now, each with the reason."""
        found = self._points[point]
        found.training, found.diverged = False, diverged
        reached = [len(other.values) - 1 for other in found.setting.points.values() if other.training]
        return self._judge_all(found.setting, min(reached)) if reached and min(reached) >= 0 else {}

    def recall(
        self, point: str, validations: Sequence[tuple[int, float, float]], diverged: bool, stopped: str | None
    ) -> None:
        """A point that was done before: its validations as (step, accuracy, loss), and why it was stopped, if it was."""
        found = self._points[point]
        for step, accuracy, loss in validations:
            if math.isfinite(accuracy) and math.isfinite(loss):
                self._arrive(found, step, accuracy, loss)
        found.diverged = diverged
        setting = found.setting
        setting.stopped = setting.stopped or stopped
        if not stopped:  # what went on has passed, whoever judged it
            for rung in range(len(found.values)):
                if len(setting.arrived(rung)) >= self._needed(setting):
                    setting.passed = max(setting.passed, rung)

    def needed(self, point: str) -> int:
        """Seeds of a point's setting by which it is judged."""
        return self._needed(self._points[point].setting)

    # ------------------------------------------------------------------ decisions

    def _arrive(self, point: _Point, step: int, accuracy: float, loss: float) -> None:
        while len(point.values) < len(point.rungs) and step >= point.rungs[len(point.values)]:
            point.values.append((accuracy, loss))

    def _needed(self, setting: _Setting) -> int:
        return min(len(setting.points), self.quorum or math.ceil(len(setting.points) / 2))

    def _judge_all(self, setting: _Setting, rung: int) -> dict[str, str]:
        """Judge ``setting`` at ``rung``, and with ``again`` the others that were last there."""
        hopeless = self._judge(setting, rung)
        if self.again:
            for other in self._settings.values():
                if other is not setting and other.passed == rung:
                    hopeless |= self._judge(other, rung)
        return hopeless

    def _judge(self, setting: _Setting, rung: int) -> dict[str, str]:
        if setting.stopped is None:
            arrived = setting.arrived(rung)
            on_their_way = [p for p in setting.points.values() if p.training and not p.arrived(rung)]
            decided = setting.passed > rung or (setting.passed == rung and not self.again)
            if decided or on_their_way or len(arrived) < self._needed(setting):
                return {}
            rivals = [s for s in self._settings.values() if len(s.arrived(rung)) >= self._needed(s)]
            keep = math.ceil(len(rivals) / self.factor - 1e-9)
            merit = setting.merit(rung)
            place = sum(other.merit(rung) > merit for other in rivals)
            if place < keep:
                setting.passed = max(setting.passed, rung)
                return {}
            setting.stopped = self._reason(arrived, merit, rung, place, len(rivals), keep)
        return {
            name: setting.stopped
            for name, point in setting.points.items()
            if point.training and (point.values or point.diverged)
        }

    def _reason(
        self, arrived: list[_Point], merit: tuple[float, float, float], rung: int, place: int, rivals: int, keep: int
    ) -> str:
        steps = sorted({point.rungs[rung] for point in arrived})
        at = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
        seeds = f", the mean of {len(arrived)} seeds" if len(arrived) > 1 else ""
        lost = sum(point.diverged for point in arrived)
        value = f"{merit[1]:.2%} validation accuracy" if math.isfinite(merit[1]) else "no accuracy"
        value += f" ({lost} of {len(arrived)} diverged)" if lost else ""
        return f"{value} at {at}{seeds}: number {place + 1} of the {rivals} settings there, of which {keep} went on"
