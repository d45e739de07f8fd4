"""Which setting is best, and which cannot be told from it.

The best is the setting with the highest mean (the lowest, of a loss) among those that may be it:

* It must have two seeds, where any setting has: the highest of many single runs is mostly luck.
* None of its runs may have diverged or been stopped as hopeless, where any setting is free of that: the mean over the seeds that survived is that of
  the lucky ones. Where every setting lost runs, those that lost the smallest share of theirs may be it.

Every other setting with two seeds is then compared with the best: over the seeds that both have, where there are two or
more (a paired t-test), else by Welch's test, and then the two intervals may not overlap either. A setting is *ruled out* as
the best where the two-sided p-value, times the number of comparisons, is below 5 % (Bonferroni); the others are *rivals*.
That the best was chosen by the same numbers does no harm to this claim: whichever is chosen, the truly best setting is among
it and its rivals with 95 % confidence at least (Hsu, 1984, Annals of Statistics 12: multiple comparisons with the best). It
is a claim about which setting is best and not that each one ruled out is worse: of twenty-one settings that are exactly
alike, one or more are ruled out in up to two of ten sweeps. Holm's steps gain next to nothing here, and do not carry the
proof. ``scripts/coverage.py`` measures all this.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradlab.analysis.grouping import Grouped, Setting
from gradlab.analysis.metric import Metric
from gradlab.analysis.statistics import CONFIDENCE, Comparison, Estimate, compare


@dataclass(frozen=True)
class Compared:
    """The best setting against another.

    comparison: how much the best is better; positive is better, also for a loss.
    adjusted_p: two-sided, times the number of comparisons, at most 1; NaN where there is no saying.
    ruled_out: whether the other cannot be the best.
    """

    setting: Setting
    comparison: Comparison
    adjusted_p: float
    ruled_out: bool


@dataclass(frozen=True)
class Ranking:
    """The verdict in numbers.

    best: the setting with the best mean of those that may be it; None where no run has finished.
    others: the rest of those that finished a run, by their mean, best first.
    lone_seeds: whether no setting has two seeds, so that nothing is ranked.
    passed_over: settings with a better mean than the best that may not be it, best first.
    optimism: how much the mean of the best is too good to be expected to be, if its rivals are as good as it (the
        winner's curse); NaN where unknown, 0 without rivals.
    """

    best: Setting | None
    others: Sequence[Compared]
    lone_seeds: bool
    passed_over: Sequence[Setting]
    optimism: float

    @property
    def rivals(self) -> list[Compared]:
        """Those that cannot be told from the best."""
        return [other for other in self.others if not other.ruled_out]

    @property
    def ruled_out(self) -> list[Compared]:
        return [other for other in self.others if other.ruled_out]


def rank(grouped: Grouped) -> Ranking:
    """Which setting is best, and which others may be it as well."""
    metric = grouped.metric
    measured = sorted(
        (setting for setting in grouped.settings if setting.estimate),
        key=lambda setting: (
            -round(metric.gain(setting.mean), 12),
            _cost(setting),
        ),  # 12 digits: 0.1 + 0.2 ties with 0.3
    )
    if not measured:
        return Ranking(None, [], False, [], math.nan)
    lone = all(setting.n < 2 for setting in measured)
    allowed = [setting for setting in measured if lone or setting.n >= 2]
    fewest = min(_lost(setting) for setting in allowed)
    best = next(setting for setting in allowed if _lost(setting) == fewest)
    rest = [setting for setting in measured if setting is not best]
    comparisons = sum(setting.n >= 2 for setting in rest)
    others = [_against(best, other, comparisons, metric, grouped.resolution) for other in rest]
    passed_over = [s for s in measured[: measured.index(best)] if metric.gain(s.mean - best.mean) > 1e-12]
    return Ranking(best, others, lone, passed_over, _optimism(best, sum(not other.ruled_out for other in others)))


def _lost(setting: Setting) -> float:
    return 1 - setting.count("finished") / max(setting.ended, 1)


def _cost(setting: Setting) -> float:
    """Of two equal means, the cheaper one is first."""
    return setting.seconds if math.isfinite(setting.seconds) else math.inf


def _against(best: Setting, other: Setting, comparisons: int, metric: Metric, resolution: float) -> Compared:
    sign = metric.gain(1.0)
    compared = compare(
        {seed: sign * value for seed, value in best.by_seed.items()},
        {seed: sign * value for seed, value in other.by_seed.items()},
        resolution,
    )
    p = min(1.0, comparisons * compared.p) if math.isfinite(compared.p) else math.nan
    ruled_out = p < 1 - CONFIDENCE and compared.difference > 0 and best.n >= 2 and other.n >= 2
    if ruled_out and not compared.paired:
        assert best.estimate
        assert other.estimate
        ruled_out = not _overlap(best.estimate, other.estimate)
    return Compared(other, compared, p, ruled_out)


def _overlap(first: Estimate, second: Estimate) -> bool:
    return first.low <= second.high and second.low <= first.high


def _optimism(best: Setting, rivals: int) -> float:
    """What the highest of 1 + ``rivals`` equally good means is above the truth, in expectation.

    The expected maximum of normal numbers, by Blom's formula (1958), times the standard error of one mean.
    """
    from statistics import NormalDist

    if not best.estimate or not math.isfinite(best.estimate.std):
        return math.nan
    count = rivals + 1
    above = NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0
    return above * best.estimate.std / math.sqrt(best.estimate.n)
