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
    multiply_adds, moved = touched(config)
    clocks = {"": "microseconds_per_step", ", processor": "processor_microseconds_per_step"}
    ratios: dict[str, dict[str, float]] = {way: {} for way in found if way.startswith("gradlab")}
    floors: dict[str, float] = {}
    for clock, key in clocks.items():
        took = {way: each[key]["median"] for way, each in found.items()}
        arithmetic = multiply_adds / PRODUCT**3 * took.get("products", 0.0)
        floors |= {f"arithmetic{clock}": arithmetic, f"memory{clock}": took.get("copies", 0.0)}
        floors[f"larger{clock}"] = floor = max(arithmetic, took.get("copies", 0.0))
        for way, own in ratios.items():
            for loop in ("loop", "tuned loop", "compiled loop"):
                if loop in took:
                    own[f"{way} / {loop}{clock}"] = took[way] / took[loop]
            own[f"floor / {way}{clock}"] = floor / took[way]
            lightning = [each for name, each in took.items() if name.startswith("Lightning")]
            if lightning and not clock:  # the workers' processor time is not that of the process
                own[f"Lightning / {way}"] = min(lightning) / took[way]
    return {
        "workload": workload.name,
        "batch": config.batch_examples,
        "threads": threads_of(config),
        "turns": turns,
        "seconds_per_turn": seconds,
        "multiply_adds_per_step": multiply_adds,
        "bytes_per_step": moved,
        "ways": found,
        "floor_microseconds": floors,
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
        pairs = [
            f"{way} / loop",
            f"{way} / tuned loop",
            f"{way} / compiled loop",
            f"Lightning / {way}",
            f"floor / {way}",
        ]
        told = [_told(ratios, pair) for pair in pairs]
        shown = f"{times['median']:,.0f} ({times['min']:,.0f}–{times['max']:,.0f})"
        processor = each["processor_microseconds_per_step"]["median"]
        lines.append([name, way, shown, f"{processor:,.0f}", f"{each['memory_mib']:,}", *told])
    floors = result["floor_microseconds"]
    lines.append([name, "floor", f"{floors['larger']:,.0f}", f"{floors['larger, processor']:,.0f}"])
    return lines + [[name, way, "failed"] for way in result["failed"]]


def _told(ratios: dict[str, float], pair: str) -> str:
    """A ratio by the clock and, in brackets, by processor time."""
    if pair not in ratios:
        return ""
    processor = ratios.get(f"{pair}, processor")
    return f"{ratios[pair]:.2f}" + (f" [{processor:.2f}]" if processor is not None else "")
