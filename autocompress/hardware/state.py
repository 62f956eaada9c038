"""In which state this machine is right now: clocks, temperatures, memory, load, and what of it spoils measurements."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.hardware.agent import facts, protocol
from autocompress.hardware.settings import MeasureSettings

CLOSE_TO_LIMIT = 3.0
"""Degrees below a zone's limit from which the clocks may drop during a measurement."""
_GPU_FIELDS = {
    "name": "name",
    "clock_mhz": "clocks.sm",
    "max_clock_mhz": "clocks.max.sm",
    "temperature_c": "temperature.gpu",
    "memory_bytes": "memory.total",
    "memory_free_bytes": "memory.free",
}


@dataclass(frozen=True)
class HostState:
    """What this machine tells of itself; None or empty where the kernel does not say.

    Attributes:
        cpu_model: name of the processor or the board.
        cores, physical_cores: that this process may use.
        memory_bytes, memory_free_bytes: in all, and to be had without swapping.
        clocks_mhz: of each core now.
        max_clock_mhz: that the processor can have.
        clock_limit_mhz: that its cores are allowed now.
        governor: what sets the clocks; several are joined by ``+``.
        boost: whether clocks above the nominal one are allowed.
        mains: False on battery.
        power_mode: the platform's profile, as the kernel calls it.
        temperatures_c: degrees Celsius of each thermal zone.
        temperature_limits_c: from which a zone lowers the clocks or turns off the machine.
        throttled: how often a core was slowed down for its temperature during the sample.
        gpus: of each NVIDIA GPU ``name``, clocks, temperature and memory, where they were asked for.
        foreign_load: of everybody else during the sample, in cores; what a hypervisor took is included.
        stolen: what the hypervisor took, in cores.
    """

    cpu_model: str
    cores: int
    physical_cores: int
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    clocks_mhz: tuple[float, ...] = ()
    max_clock_mhz: float | None = None
    clock_limit_mhz: float | None = None
    governor: str | None = None
    boost: bool | None = None
    mains: bool | None = None
    power_mode: str | None = None
    temperatures_c: Mapping[str, float] | None = None
    temperature_limits_c: Mapping[str, float] | None = None
    throttled: int | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()
    foreign_load: float | None = None
    stolen: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "clocks_mhz": list(self.clocks_mhz), "gpus": [dict(each) for each in self.gpus]}


@dataclass(frozen=True)
class Problem:
    """Something that would make a measurement wrong.

    Attributes:
        what: one line.
        remedy: what to do about it.
    """

    what: str
    remedy: str


def host_state(*, seconds: float = 1.0, gpu: bool = False, root: Path = Path("/")) -> HostState:
    """Look at this machine for a moment, in which this process does nothing.

    Args:
        seconds: how long the load of others is sampled.
        gpu: whether to ask for NVIDIA GPUs too.
        root: where ``sys`` and ``proc`` are looked up.
    """
    before = _throttled(root)
    load = protocol.Load()
    time.sleep(seconds)
    used, after = load.since(), _throttled(root)
    host = facts.host_facts()
    power = host["power"]
    maximum, limit = _highest(root, "cpuinfo_max_freq"), _highest(root, "scaling_max_freq")
    return HostState(
        cpu_model=host["cpu_model"],
        cores=host["cores"],
        physical_cores=host["physical_cores"],
        memory_bytes=host["memory_bytes"],
        memory_free_bytes=_free_memory(root),
        clocks_mhz=tuple(facts.clocks() or ()),
        max_clock_mhz=maximum,
        clock_limit_mhz=limit,
        governor=power["governor"],
        boost=power["boost"],
        mains=power["mains"],
        power_mode=_read(root / "sys/firmware/acpi/platform_profile") or power["mode"],
        temperatures_c=facts.temperatures(),
        temperature_limits_c=_limits(root) or None,
        throttled=None if before is None or after is None else after - before,
        gpus=tuple(_gpus()) if gpu else (),
        foreign_load=used["foreign"],
        stolen=used["stolen"],
    )


def wrong_power_mode(wanted: str | None, now: str | None) -> str | None:
    """Why a machine is not in the power mode that a profile demands; None where it is, or where any will do."""
    if wanted is None or wanted == now:
        return None
    told = "which this machine does not tell" if now is None else f"it is {now}"
    return f"the profile demands the power mode {wanted}, {told}"


def problems(state: HostState, power_mode: str | None = None) -> tuple[Problem, ...]:
    """What would make a measurement wrong now, with what to do about it; empty where nothing does.

    Args:
        state: of the machine.
        power_mode: that the hardware profile demands; None for any.
    """
    found = [check(state) for check in _CHECKS]
    what = wrong_power_mode(power_mode, state.power_mode)
    if what is not None:
        found.append(Problem(what, f"set {power_mode} and see"))
    return tuple(each for each in found if each is not None)


def _busy(state: HostState) -> Problem | None:
    limit = MeasureSettings().foreign_limit
    if state.foreign_load is None or state.foreign_load < limit:
        return None
    what = f"others use {100 * state.foreign_load:.0f} % of a core, more than {100 * limit:.0f} %"
    if state.stolen is not None and state.stolen > state.foreign_load / 2:
        return Problem(f"{what}; most of it is taken by the hypervisor", "use a machine of your own, or another hour")
    return Problem(what, "end what else runs (see top), or wait")


def _slow_governor(state: HostState) -> Problem | None:
    if "powersave" not in (state.governor or "").split("+"):
        return None
    return Problem("the governor is powersave", "sudo cpupower frequency-set -g performance")


def _hot(state: HostState) -> Problem | None:
    limits = state.temperature_limits_c or {}
    for zone, degrees in (state.temperatures_c or {}).items():
        if zone in limits and degrees > limits[zone] - CLOSE_TO_LIMIT:
            what = f"thermal zone {zone} is at {degrees:.0f} °C, its limit is {limits[zone]:.0f} °C"
            return Problem(what, "let it cool down, or cool it better")
    if state.throttled:
        return Problem(f"cores were slowed down {state.throttled} times for their temperature", "let it cool down")
    return None


def _limited(state: HostState) -> Problem | None:
    now, possible = state.clock_limit_mhz, state.max_clock_mhz
    if now is None or possible is None or now >= possible:
        return None
    remedy = f"sudo cpupower frequency-set -u {possible:.0f}MHz"
    return Problem(f"the clock is limited to {now:.0f} of {possible:.0f} MHz", remedy)


def _on_battery(state: HostState) -> Problem | None:
    return Problem("it runs on battery", "connect it to the mains") if state.mains is False else None


_CHECKS: tuple[Callable[[HostState], Problem | None], ...] = (_busy, _slow_governor, _hot, _limited, _on_battery)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _highest(root: Path, name: str) -> float | None:
    """Largest of a frequency of all cores, in MHz."""
    found = [_number(path) for path in (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}")]
    known = [value / 1000 for value in found if value is not None]
    return max(known) if known else None


def _throttled(root: Path) -> int | None:
    """How often cores were slowed down since the machine was started."""
    places = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    known = [value for value in map(_number, places) if value is not None]
    return sum(known) if known else None


def _free_memory(root: Path) -> int | None:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _limits(root: Path) -> dict[str, float]:
    """Lowest temperature of each zone at which something is done about it, named as `facts.temperatures` does."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        degrees = []
        for kind in zone.glob("trip_point_*_type"):
            value = _number(kind.with_name(kind.name.removesuffix("type") + "temp"))
            # An "active" point only turns on a fan; values of 0 and below stand for none.
            if _read(kind) in ("passive", "hot", "critical") and value is not None and value > 0:
                degrees.append(value / 1000)
        if degrees:
            name = _read(zone / "type") or zone.name
            found[f"{zone.name.removeprefix('thermal_zone')}/{name}"] = min(degrees)
    return found


def _gpus() -> list[dict[str, Any]]:
    """What the NVIDIA driver's own tool tells; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS.values())}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [_gpu(line) for line in told.splitlines() if line.count(",") == len(_GPU_FIELDS) - 1]


def _gpu(line: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in zip(_GPU_FIELDS, (part.strip() for part in line.split(",")), strict=True):
        value: Any = text
        if name != "name":
            value = int(text) if text.isdigit() else None
            if name.startswith("memory") and value is not None:
                value *= 2**20
        found[name] = value
    return found
