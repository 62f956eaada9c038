"""In which state a host is right now: clocks, temperatures, memory, load, GPUs, and what its board tells."""

import os
import re
import time
from typing import Any, Dict, List, Optional, Tuple

from .board import board_state
from .facts import clocks, host_facts, temperatures
from .protocol import Load
from .reading import below, entries, meminfo, read_line, read_number, told_by
from .tegrastats import Watch

_GPU_FIELDS = (
    ("name", "name"),
    ("clock_mhz", "clocks.sm"),
    ("max_clock_mhz", "clocks.max.sm"),
    ("temperature_c", "temperature.gpu"),
    ("memory_bytes", "memory.total"),
    ("memory_free_bytes", "memory.free"),
)


def host_state(job: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Look at this host for a moment, in which this process does nothing.

    Args:
        job: ``seconds`` that the load of others is sampled; ``gpu``: whether to ask for NVIDIA GPUs too; ``root``:
            where ``sys``, ``proc`` and ``etc`` are looked up, ``/`` but for tests.

    Returns:
        The host's facts, and what `autocompress.hardware.state.HostState` has, as plain values.
    """
    root, seconds = str(job.get("root") or "/"), float(job.get("seconds", 1.0))
    host = host_facts(root)
    board = board_state(root, host["board"])
    before = throttle_count(root)
    watch = None if board is None else Watch.start()
    begin = None if watch is None else watch.mark()
    load = Load()
    time.sleep(seconds)
    used, after = load.since(), throttle_count(root)
    if board is not None and watch is not None and begin is not None:
        seen = watch.seen(begin)
        watch.stop()
        used["foreign"] = seen.without_watching(used["foreign"], seconds)
        board.update(watched=seen.summary(), new_overcurrent=seen.alarms)
    power = host["power"]
    mode = None if board is None else board["mode"]
    state = {
        "cpu_model": host["cpu_model"],
        "cores": host["cores"],
        "physical_cores": host["physical_cores"],
        "memory_bytes": host["memory_bytes"],
        "memory_free_bytes": meminfo(root).get("MemAvailable"),
        "clocks_mhz": clocks() or [],
        "max_clock_mhz": highest_clock(root, "cpuinfo_max_freq"),
        "clock_limit_mhz": highest_clock(root, "scaling_max_freq"),
        "governor": power["governor"],
        "boost": power["boost"],
        "mains": power["mains"],
        "power_mode": mode or read_line(below(root, "sys/firmware/acpi/platform_profile")) or power["mode"],
        "temperatures_c": temperatures(root),
        "temperature_limits_c": temperature_limits(root) or None,
        "throttled": None if before is None or after is None else after - before,
        # The GPU of a Jetson is in the board's facts; nvidia-smi knows next to nothing of it.
        "gpus": gpus() if job.get("gpu") and board is None else [],
        "foreign_load": used["foreign"],
        "stolen": used["stolen"],
        "board": board,
    }
    return host, state


def highest_clock(root: str, name: str) -> Optional[float]:
    """Largest of a frequency of all cores, in MHz."""
    known = [value / 1000.0 for value in _of_cores(root, "cpufreq/" + name)]
    return max(known) if known else None


def throttle_count(root: str) -> Optional[int]:
    """How often cores were slowed down since the machine was started."""
    known = _of_cores(root, "thermal_throttle/core_throttle_count")
    return sum(known) if known else None


def temperature_limits(root: str) -> Dict[str, float]:
    """Lowest temperature of each zone at which something is done about it, named as `facts.temperatures` does."""
    found: Dict[str, float] = {}
    folder = below(root, "sys/class/thermal")
    for zone in entries(folder):
        if not zone.startswith("thermal_zone"):
            continue
        degrees = []
        for kind in entries(os.path.join(folder, zone)):
            point = re.match(r"(trip_point_\d+)_type$", kind)
            value = point and read_number(os.path.join(folder, zone, point.group(1) + "_temp"))
            # An "active" point only turns on a fan; values of 0 and below stand for none.
            what = read_line(os.path.join(folder, zone, kind)) if point else None
            if what in ("passive", "hot", "critical") and value is not None and value > 0:
                degrees.append(value / 1000.0)
        if degrees:
            name = read_line(os.path.join(folder, zone, "type")) or zone
            found["%s/%s" % (zone[12:], name)] = min(degrees)
    return found


def gpus() -> List[Dict[str, Any]]:
    """What the NVIDIA driver's own tool tells; nothing where there is none."""
    query = "--query-gpu=" + ",".join(field for _, field in _GPU_FIELDS)
    told = told_by(("nvidia-smi", query, "--format=csv,noheader,nounits"), 20.0) or ""
    return [_gpu(line) for line in told.split("\n") if line.count(",") == len(_GPU_FIELDS) - 1]


def _gpu(line: str) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    texts = [part.strip() for part in line.split(",")]
    for (name, _), text in zip(_GPU_FIELDS, texts):  # noqa: B905 (Python 3.6)
        value: Any = text
        if name != "name":
            value = int(text) if text.isdigit() else None
            if name.startswith("memory") and value is not None:
                value *= 2**20
        found[name] = value
    return found


def _of_cores(root: str, name: str) -> List[int]:
    folder = below(root, "sys/devices/system/cpu")
    found = [read_number(os.path.join(folder, core, name)) for core in entries(folder) if re.match(r"cpu\d", core)]
    return [value for value in found if value is not None]
