"""The third sentence of a verdict: what to try next, as overrides that can be typed."""

from gradlab.analysis.edges import edges, refined_grid, tried_values
from gradlab.analysis.grouping import Grouped, Setting, shown, spoken
from gradlab.analysis.ranking import Ranking
from gradlab.analysis.sources import Source
from gradlab.analysis.statistics import seeds_needed

MANY_SEEDS = 100


def next_steps(source: Source, grouped: Grouped, ranking: Ranking) -> str:
    """Missing points first, then the edges of the grid, then the seeds that would part the first two, else a finer grid."""
    steps = []
    pending = sum(s.pending for s in grouped.settings) + len(grouped.unplaced)
    if pending and source.status is not None:
        steps.append(
            f"finish the sweep: {pending} of {len(source.runs)} points are missing (the same command with resume=true)"
        )
    best = ranking.best
    if best is None:
        steps += _after_nothing(grouped)
    else:
        at_edge = edges(grouped, best, source.space)
        steps += [
            f"{spoken(edge.key)} {shown(edge.value)} is the {'lowest' if edge.lowest else 'highest'} of {len(edge.tried)} "
            f"tried with it, so go on from this edge of the grid with '{edge.next_grid}'"
            for edge in at_edge
            if edge.next_grid
        ][:2]
        if ranking.lone_seeds:
            steps.append("repeat with at least 3 seeds, 'seed=range(3)'")
        elif ranking.rivals:
            steps.append(_more_seeds(ranking))
        elif not at_edge and source.search:
            more = 2 * int(source.search.get("trials", 0)) or len(grouped.settings) * 2
            steps.append(f"search on with the same command, resume=true and hydra.sweeper.n_trials={more}")
        elif not at_edge and grouped.numbers:
            key = grouped.numbers[0]
            value, tried = best.values.get(key), tried_values(grouped, best, key)
            refined = refined_grid(key, value, tried) if isinstance(value, int | float) and value in tried else None
            if refined:
                steps.append(
                    f"the best {spoken(key).removeprefix('the ')} lies inside the {len(tried)} tried: refine it with '{refined}'"
                )
    if not steps:
        n = best.n if best else 0
        compare = (
            ""
            if len(grouped.settings) > 1
            else "sweep something to compare it with, such as 'optimizer.lr=logspace(1e-4,1,9)'; "
        )
        steps.append(f"{compare}n = {n} seeds is {'what it rests on' if n > 2 else 'few: repeat with three or more'}")
    return f"Next: {'; '.join(steps)}."


def _more_seeds(ranking: Ranking) -> str:
    best = ranking.best
    assert best is not None
    rival = next((r for r in ranking.rivals if r.setting.n >= 2), ranking.rivals[0])
    pair, other = f"{best.name} and {rival.setting.name}", rival.comparison
    if best.n < 2 or rival.setting.n < 2:
        return f"to compare {pair}, repeat both with at least 3 seeds, 'seed=range(3)'"
    needed = seeds_needed(other)
    if other.difference == 0:
        return f"{pair} differ by 0, so no number of seeds is likely to part them: take the cheaper"
    if needed > MANY_SEEDS:
        return (
            f"to tell {pair} apart would take more than {MANY_SEEDS} seeds of each: take them for equal, or the cheaper"
        )
    needed = max(int(needed), other.n + 1)
    used = [run.seed for s in (best, rival.setting) for run in s.runs if run.seed is not None]
    start = max(used, default=-1) + 1
    return (
        f"to tell {pair} apart at the difference and spread seen takes about {needed} fresh seeds of each, "
        f"'seed=range({start},{start + needed})'"
    )


def _after_nothing(grouped: Grouped) -> list[str]:
    every = [run for setting in grouped.settings for run in setting.runs]
    rates = sorted({r for s in grouped.settings if isinstance(r := _rate(s), int | float)})
    if every and all(run.status == "diverged" for run in every) and rates:
        low = rates[0]
        return [
            f"lower the learning rate: {shown(low)}, the lowest tried, diverged: 'optimizer.lr=logspace({shown(low / 1e4)},{shown(low / 10)},4)'"
        ]
    if any(run.status == "failed" for run in every) or grouped.unplaced:
        return ["mend what made the runs fail (their reasons are in the table of runs) and start again"]
    return []


def _rate(setting: Setting) -> object:
    return next((run.config.get("optimizer.lr") for run in setting.runs), None)
