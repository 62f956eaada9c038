"""Facts about the host and the process."""

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from typing import Any, Dict, List, Optional, Tuple


def read_line(path: str) -> Optional[str]:
    try:
        with open(path, errors="replace") as stream:
            return stream.read().strip("\0\n ")
    except OSError:
        return None


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


def temperatures() -> Optional[Dict[str, float]]:
    """Degrees Celsius of each thermal zone; None where there is none."""
    found: Dict[str, float] = {}
    root = "/sys/class/thermal"
    for zone in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if zone.startswith("thermal_zone"):
            value = read_line(os.path.join(root, zone, "temp"))
            if value and value.lstrip("-").isdigit():
                name = read_line(os.path.join(root, zone, "type")) or zone
                found["%s/%s" % (zone[12:], name)] = int(value) / 1000.0
    return found or None


def power_mode(programs: Tuple[str, ...] = ("/usr/sbin/nvpmodel", "/usr/bin/nvpmodel")) -> Optional[str]:
    """Name of the power mode: a Jetson's by nvpmodel, else the platform profile; None where nothing tells."""
    for program in programs:
        if os.path.exists(program):
            try:
                # A pipe and no more: `capture_output` is newer than Python 3.6.
                said = subprocess.run([program, "-q"], stdout=subprocess.PIPE, timeout=10, check=False)
            except (OSError, subprocess.SubprocessError):
                continue
            found = re.search(r"Power Mode:[ \t]*(\S+)", said.stdout.decode(errors="replace"))
            if found:
                return found.group(1)
    return read_line("/sys/firmware/acpi/platform_profile")


def power() -> Dict[str, Any]:
    """What sets the clocks: the power mode, the governors, boost, and mains or battery; None where nothing says so."""
    governors = set()
    for core in affinity():
        governor = read_line("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor" % core)
        if governor:
            governors.add(governor)
    boost = read_line("/sys/devices/system/cpu/cpufreq/boost")
    no_turbo = read_line("/sys/devices/system/cpu/intel_pstate/no_turbo")
    mains: Optional[bool] = None
    root = "/sys/class/power_supply"
    for supply in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if read_line(os.path.join(root, supply, "type")) == "Mains":
            mains = bool(mains) or read_line(os.path.join(root, supply, "online")) == "1"
    return {
        "mode": power_mode(),
        "governor": "+".join(sorted(governors)) or None,
        "boost": boost == "1" if boost is not None else (no_turbo == "0" if no_turbo is not None else None),
        "mains": mains,
    }


def host_facts() -> Dict[str, Any]:
    """What a measurement depends on beyond the engine; ``id`` is equal exactly where figures may be compared."""
    model, machine = cpu_model(), platform.machine()
    logical, physical = cores()
    identity = read_line("/etc/machine-id") or platform.node()
    seed = json.dumps([identity, platform.node(), model, logical, physical, machine])
    memory: Optional[int] = None
    for line in (read_line("/proc/meminfo") or "").split("\n"):
        if line.startswith("MemTotal:"):
            memory = int(line.split()[1]) * 1024
    return {
        "id": hashlib.sha256(seed.encode()).hexdigest()[:12],
        "name": platform.node(),
        "cpu_model": model,
        "machine": machine,
        "cores": logical,
        "physical_cores": physical,
        "memory_bytes": memory,
        "system": "%s %s" % (platform.system(), platform.release()),
        "power": power(),
    }


def resident_memory(field: str) -> Optional[int]:
    """Resident memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    Not from getrusage: its peak outlives exec, and so would include the process that started this one.
    """
    for line in (read_line("/proc/self/status") or "").split("\n"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
