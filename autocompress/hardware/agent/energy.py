"""Energy, where a device counts it."""

import os
from typing import Any, Dict, Optional, Tuple

from .reading import read_line

RAPL_FOLDER = "/sys/class/powercap"


Counters = Dict[str, Tuple[float, Optional[float]]]
"""Joules that a counter shows, and at how many it begins again at 0 (None: never), by its name."""


def energy_counters(engine: Any) -> Counters:
    """The counters of what computes: of the whole GPU, or of the processor's packages; empty where none is told."""
    if engine.device == "cpu":
        return rapl_counters()
    joules = None if engine.gpu is None else engine.gpu.energy()
    return {} if joules is None else {"gpu": (joules, None)}


def rapl_counters(folder: str = RAPL_FOLDER) -> Counters:
    """Energy of each processor package, as the kernel's powercap tells it (mostly to root alone)."""
    found: Counters = {}
    for zone in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        # intel-rapl:0 is a package, also on AMD; intel-rapl:0:0 is a part of it.
        name = read_line(os.path.join(folder, zone, "name")) or ""
        if zone.count(":") != 1 or not name.startswith("package"):
            continue
        energy = read_line(os.path.join(folder, zone, "energy_uj")) or ""
        span = read_line(os.path.join(folder, zone, "max_energy_range_uj")) or ""
        if energy.isdigit():
            found[zone] = (int(energy) / 1e6, int(span) / 1e6 if span.isdigit() else None)
    return found


def energy_used(before: Counters, after: Counters) -> Optional[float]:
    """Joules between two readings; None where a counter is missing, went backwards, or did not move."""
    if not before or set(before) != set(after):
        return None
    total = 0.0
    for name, (start, span) in before.items():
        used = after[name][0] - start
        if used < 0 and span is not None:
            used += span  # it began again once; at full load that takes minutes, a measurement seconds
        if used < 0:
            return None
        total += used
    return total or None
