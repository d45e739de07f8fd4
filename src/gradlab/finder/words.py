"""What a search found, in words."""

from gradlab.finder.search import Found


def sentences(found: Found) -> list[str]:
    """Lines for the terminal: what was done, what was seen, and the suggestion or the doubt."""
    reading, marked = found.reading, found.reading.points
    low, high = reading.rates[0], reading.rates[-1]
    ramps = f"{len(reading.losses)} ramps from {low:.2g} to {high:.2g}, {found.steps:,} steps in {found.seconds:.1f} s"
    climbs = "" if marked.climbs is None else f", and climbs from {marked.climbs:.3g} on"
    lines = [
        f"{found.setting} · {ramps}",
        f"the loss is lowest at {marked.lowest:.3g}{climbs}; the ramps alone would say {_votes(found)}",
    ]
    compared = f"(configured: {found.configured:.6g})"
    if found.sure:
        return [*lines, f"suggestion  optimizer.lr={found.suggestion:.3g}  {compared}"]
    lines.append(f"not sure: {reading.doubt}")
    if found.suggestion is not None:
        lines.append(f"a guess     optimizer.lr={found.suggestion:.3g}  {compared}")
    return lines


def _votes(found: Found) -> str:
    return ", ".join("nothing" if vote is None else f"{vote:.2g}" for vote in found.reading.votes)
