"""What a reader must know before believing a verdict: what is missing, lost, passed over or not alike."""

from gradlab.analysis.grouping import Grouped, at_steps, lost
from gradlab.analysis.ranking import Ranking
from gradlab.analysis.sources import Source


def caveats(source: Source, grouped: Grouped, ranking: Ranking) -> list[str]:
    """One sentence each; none where there is nothing to say."""
    said = []
    everything = [run for s in grouped.settings for run in s.runs] + list(grouped.unplaced)
    counts = {status: sum(run.status == status for run in everything) for status in {run.status for run in everything}}
    missing = {s: counts[s] for s in ("waiting", "running", "killed", "failed") if counts.get(s)}
    if missing:
        told = ", ".join(f"{count} {status}" for status, count in missing.items())
        what = "This sweep is not complete" if source.status is not None else "Not all of these runs ended well"
        said.append(f"{what}: {told} of {len(everything)}. Missing runs may change the verdict.")
    if source.search and len(source.runs) < int(source.search.get("points", 0)):
        said.append(
            f"The search is not complete: {len(source.runs)} of {source.search['points']} points were chosen (the same command with "
            "resume=true goes on)."
        )
    stopped = [setting for setting in grouped.settings if setting.stopped]
    if stopped:
        runs = sum(setting.stopped for setting in stopped)
        unfinished = sum(not setting.n for setting in stopped)
        when = at_steps([run for setting in stopped for run in setting.runs])
        said.append(
            f"{runs} of {len(everything)} runs {'was' if runs == 1 else 'were'} stopped early as hopeless{f' {when}' if when else ''}, "
            "by the early accuracy of the setting."
            + (
                f" {unfinished} of {len(grouped.settings)} settings have no finished run for that: they are not ranked, and the 95% "
                "confidence does not cover them."
                if unfinished
                else ""
            )
        )
    best = ranking.best
    if best is not None and lost(best):
        said.append(
            f"{best.name} is the best of settings that all lost runs: {lost(best)}, and its mean is over those that did not."
        )
    for setting in ranking.passed_over[:3]:
        why = lost(setting) or "one seed only"
        said.append(
            f"{setting.name} has a better mean, {grouped.metric.write(setting.mean)}, but is not taken for best: {why}."
        )
    unequal = {setting.n for setting in grouped.settings if setting.n and not lost(setting) and not setting.pending}
    if len(unequal) > 1:
        said.append(f"Settings have different numbers of finished seeds, from {min(unequal)} to {max(unequal)}.")
    repeated = sum(setting.repeated for setting in grouped.settings)
    if repeated:
        said.append(f"{repeated} runs repeat a setting and seed that another has: only the latest of each is counted.")
    for key, what in (("data_sha256", "different images"), ("device", "different devices")):
        values = {str(run.about[key]) for run in everything if key in run.about}
        if len(values) > 1:
            said.append(f"The runs were made on {len(values)} {what}.")
    return said
