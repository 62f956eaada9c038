"""Facts about the host and the process."""

import hashlib
import json
import math
import os
import platform
from typing import Any, Dict, List, Optional, Tuple

from .board import SYSTEM_FOLDERS, board_facts, nvpmodel_mode
from .reading import below, entries, find_program, meminfo, read_line, read_number, told_by


def affinity() -> List[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores() -> Tuple[int, int]:
    """Logical and physical cores that this process may use, by its affinity and by a container's quota."""
    usable = affinity()
    siblings = {
        read_line("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % core) or core for core in usable
    }
    quota = (read_line("/sys/fs/cgroup/cpu.max") or "").split()
    limit = len(usable)
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        limit = max(math.ceil(int(quota[0]) / float(quota[1])), 1)
    return min(len(usable), limit), min(len(siblings), limit)


def cpu_model() -> str:
    """Name of the CPU or of the board, as the kernel tells it."""
    board = read_line("/proc/device-tree/model")
    for line in (read_line("/proc/cpuinfo") or "").split("\n"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return board or platform.processor() or platform.machine()


def clocks() -> Optional[List[float]]:
    """Current clock of each core in MHz; None where neither cpufreq nor /proc/cpuinfo tells."""
    found: List[float] = []
    for core in affinity():
        text = read_line("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq" % core)
        if text and text.isdigit():
            found.append(round(int(text) / 1000.0, 1))
    if found:
        return found
    for line in (read_line("/proc/cpuinfo") or "").split("\n"):
        if line.startswith("cpu MHz"):
            try:
                found.append(round(float(line.split(":", 1)[1]), 1))
            except ValueError:
                return None
    return found or None


def temperatures(root: str = "/") -> Optional[Dict[str, float]]:
    """Degrees Celsius of each thermal zone; None where there is none."""
    found: Dict[str, float] = {}
    folder = below(root, "sys/class/thermal")
    for zone in entries(folder):
        if zone.startswith("thermal_zone"):
            value = read_number(os.path.join(folder, zone, "temp"))
            name = read_line(os.path.join(folder, zone, "type")) or zone
            # A Jetson's power chip always says 100 degrees, and zones that are turned off -256.
            if value is not None and value > -55000 and not name.startswith("PMIC"):
                found["%s/%s" % (zone[12:], name)] = value / 1000.0
    return found or None


def power_mode(programs: Optional[Tuple[str, ...]] = None) -> Optional[str]:
    """Name of the power mode: a Jetson's by nvpmodel, else the platform profile; None where nothing tells.

    Args:
        programs: nvpmodel, wherever it may be; None looks it up.
    """
    if programs is None:
        found = find_program("nvpmodel", *SYSTEM_FOLDERS)
        programs = () if found is None else (found,)
    for program in programs:
        name = nvpmodel_mode(told_by((program, "-q")) or "")[0]
        if name is not None:
            return name
    return read_line("/sys/firmware/acpi/platform_profile")


def power(board: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """What sets the clocks: the power mode, the governors, boost, and mains or battery; None where nothing says so.

    Args:
        board: `board_facts`, where they were asked for; with them it is told whether the clocks are locked, too.
    """
    governors = set()
    for core in affinity():
        governor = read_line("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor" % core)
        if governor:
            governors.add(governor)
    boost = read_line("/sys/devices/system/cpu/cpufreq/boost")
    no_turbo = read_line("/sys/devices/system/cpu/intel_pstate/no_turbo")
    mains: Optional[bool] = None
    root = "/sys/class/power_supply"
    for supply in entries(root):
        if read_line(os.path.join(root, supply, "type")) == "Mains":
            mains = bool(mains) or read_line(os.path.join(root, supply, "online")) == "1"
    return {
        "mode": power_mode() if board is None or board["mode"] is None else board["mode"],
        "governor": "+".join(sorted(governors)) or None,
        "boost": boost == "1" if boost is not None else (no_turbo == "0" if no_turbo is not None else None),
        "mains": mains,
        # Only there: it is part of what a kept latency is found by.
        **({} if board is None else {"clocks_locked": board["clocks_locked"]}),
    }


def emulated(machine: str) -> bool:
    """Whether the processor is an emulator's: qemu-user tells its own machine, but the host's /proc/cpuinfo."""
    told = read_line("/proc/cpuinfo") or ""
    return machine in ("aarch64", "armv7l") and any(line.startswith("vendor_id") for line in told.split("\n"))


def host_facts(root: str = "/") -> Dict[str, Any]:
    """What a measurement depends on beyond the engine; ``id`` is equal exactly where figures may be compared.

    Args:
        root: where the memory and the facts of a Jetson (``board``, None on other machines) are looked up.
    """
    model, machine = cpu_model(), platform.machine()
    logical, physical = cores()
    identity = read_line("/etc/machine-id") or platform.node()
    seed = json.dumps([identity, platform.node(), model, logical, physical, machine])
    board = board_facts(root)
    return {
        "id": hashlib.sha256(seed.encode()).hexdigest()[:12],
        "name": platform.node(),
        "cpu_model": model,
        "machine": machine,
        "emulated": emulated(machine),
        "cores": logical,
        "physical_cores": physical,
        "memory_bytes": meminfo(root).get("MemTotal"),
        "system": "%s %s" % (platform.system(), platform.release()),
        "power": power(board),
        "board": board,
    }


def resident_memory(field: str) -> Optional[int]:
    """Resident memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    Not from getrusage: its peak outlives exec, and so would include the process that started this one.
    """
    for line in (read_line("/proc/self/status") or "").split("\n"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
