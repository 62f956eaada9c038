"""The constraints of a study: by how much a trial misses them, and in which words they are told."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.search.records import TrialResult
from autocompress.specs.schemas import Constraints

LIMITS: Mapping[str, tuple[str, float, str]] = {
    # constraint -> (what it limits, factor into the unit of the flag, flag)
    "min_dice": ("Dice", 1.0, "--min-dice"),
    "max_latency_ms": ("ms", 1.0, "--max-latency"),
    "max_memory_bytes": ("MB of memory", 1e-6, "--max-memory"),
    "max_size_bytes": ("MB of file", 1e-6, "--max-size"),
}


def violations(result: TrialResult, constraints: Constraints, percentile: str) -> dict[str, float]:
    """By how much a trial misses each constraint; feasible where no value is above 0.

    Latency, memory and size are those of the target on which they are largest.
    """
    excess: dict[str, float] = {}
    if constraints.min_dice is not None and result.dice is not None:
        excess["min_dice"] = constraints.min_dice - result.dice
    measurements = [each for each in result.chosen if each is not None]
    sizes = [result.size_bytes, *(each.size_bytes for each in result.others)]
    found: dict[str, list[float]] = {
        "max_latency_ms": [value for value in result.latencies_ms(percentile) if value is not None],
        "max_memory_bytes": [each.peak_memory_bytes for each in measurements if each.peak_memory_bytes is not None],
        "max_size_bytes": [size for size in sizes if size is not None],
    }
    for name, values in found.items():
        limit = getattr(constraints, name)
        if limit is not None and values:
            excess[name] = float(max(values) - limit)
    return excess


def relative_excess(result: TrialResult, constraints: Constraints, percentile: str) -> float:
    """By how much a trial misses the limits on latency, memory and size, each relative to its limit; 0 for not at all.

    The constraint on Dice is left out: it is known at the end of the training alone.
    """
    return sum(
        excess / getattr(constraints, name)
        for name, excess in violations(result, constraints, percentile).items()
        if name != "min_dice" and excess > 0
    )


def too_dear(result: TrialResult, constraints: Constraints, percentile: str) -> str:
    """The first constraint that a model misses by what was measured before training, in words; empty for none."""
    for name, excess in violations(result, constraints, percentile).items():
        if name != "min_dice" and excess > 0:
            unit, factor, flag = LIMITS[name]
            limit = getattr(constraints, name)
            return f"{(limit + excess) * factor:.2f} {unit} is above {flag} {limit * factor:g}{mega(name)}"
    return ""


def mega(name: str) -> str:
    """The unit that a flag's value is written with: ``MB`` for bytes."""
    return "MB" if name.endswith("_bytes") else ""
