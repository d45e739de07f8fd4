"""How long an optimizer step takes, by every way, and how near that is to the machine's own limits."""

from pathlib import Path
from typing import Any

from benchmarks.turns import record, take_turns
from benchmarks.workloads import Workload


def ways(compiled: bool) -> list[str]:
    """All of them; those of ``trainer.speed=auto`` are one of gradlab's two."""
    ours = ["gradlab safe", "gradlab max"]
    loops = ["loop", "tuned loop", *(["compiled loop"] if compiled else [])]
    return [*ours, *loops, "Lightning", "Lightning, workers", "products", "copies"]


def measure(workload: Workload, data: Path, turns: int, seconds: float, compiled: bool) -> dict[str, Any]:
    """One workload: a record with each way's microseconds, the floor's, and the ratios that the goals are about."""
    from benchmarks.ways import PRODUCT, threads_of, touched

    config = workload.config(data)
    taken, broken = take_turns({way: (way, workload) for way in ways(compiled)}, data, turns, seconds)
    found = {way: record(each) for way, each in taken.items()}
    microseconds = {way: each["microseconds_per_step"]["median"] for way, each in found.items()}
    multiply_adds, moved = touched(config)
    arithmetic = moving = None
    if "products" in microseconds:
        arithmetic = multiply_adds / PRODUCT**3 * microseconds["products"]
    if "copies" in microseconds:
        moving = microseconds["copies"]
    floor = max(arithmetic or 0.0, moving or 0.0)
    ours = [way for way in microseconds if way.startswith("gradlab")]
    lightning = [microseconds[way] for way in microseconds if way.startswith("Lightning")]
    ratios: dict[str, dict[str, float]] = {}
    for way in ours:
        own = ratios[way] = {}
        for loop in ("loop", "tuned loop", "compiled loop"):
            if loop in microseconds:
                own[f"{way} / {loop}"] = microseconds[way] / microseconds[loop]
        if lightning:
            own[f"Lightning / {way}"] = min(lightning) / microseconds[way]
        if floor:
            own[f"floor / {way}"] = floor / microseconds[way]
    return {
        "workload": workload.name,
        "batch": config.batch_examples,
        "threads": threads_of(config),
        "turns": turns,
        "seconds_per_turn": seconds,
        "multiply_adds_per_step": multiply_adds,
        "bytes_per_step": moved,
        "ways": found,
        "floor_microseconds": {"arithmetic": arithmetic, "memory": moving, "larger": floor},
        "ratios": ratios,
        "failed": broken,
    }


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A line of the table for each way."""
    lines, name = [], result["workload"]
    for way, each in result["ways"].items():
        if way in ("products", "copies"):
            continue
        times, ratios = each["microseconds_per_step"], result["ratios"].get(way, {})
        keys = [
            f"{way} / loop",
            f"{way} / tuned loop",
            f"{way} / compiled loop",
            f"Lightning / {way}",
            f"floor / {way}",
        ]
        told = [f"{ratios[key]:.2f}" if key in ratios else "" for key in keys]
        shown = f"{times['median']:,.0f} ({times['min']:,.0f}–{times['max']:,.0f})"
        lines.append([name, way, shown, f"{each['memory_mib']:,}", *told])
    lines.append([name, "floor", f"{result['floor_microseconds']['larger']:,.0f}"])
    return lines + [[name, way, "failed"] for way in result["failed"]]
