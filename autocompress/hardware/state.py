"""In which state a host is right now: clocks, temperatures, memory, load, and what of it spoils measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import TargetError
from autocompress.hardware.hosts import AgentJob, Host, LocalHost
from autocompress.hardware.settings import MeasureSettings

CLOSE_TO_LIMIT = 3.0
"""Degrees below a zone's limit from which the clocks may drop during a measurement."""
SMALL_BOARD = 4.5e9
"""Bytes of memory up to which a Jetson has none to spare: of 4 GB it tells 3956 MB."""


@dataclass(frozen=True)
class HostState:
    """What a host tells of itself; None or empty where its kernel does not say.

    Attributes:
        cpu_model: name of the processor or the board.
        cores, physical_cores: that a process of ours may use.
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
        board: of a Jetson ``model``, ``l4t``, ``jetpack``, ``mode``, ``mode_id``, ``modes``, ``clocks_locked``,
            ``gpu_clock_mhz``, ``gpu_max_clock_mhz``, ``swap_bytes``, ``swap_disk_bytes``, ``desktop``,
            ``overcurrent`` (alarms since it was started), ``new_overcurrent`` (during the sample), ``tegrastats`` (its
            place) and ``watched`` (what it told during the sample); None on other machines.
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
    board: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HostState:
        """Build from plain values, as the agent gives them."""
        lists = {name: tuple(values[name]) for name in ("clocks_mhz", "gpus")}
        return cls(**{**values, **lists})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "clocks_mhz": list(self.clocks_mhz), "gpus": [dict(each) for each in self.gpus]}


@dataclass(frozen=True)
class Problem:
    """Something that would make a measurement wrong, or something else fail.

    Attributes:
        what: one line.
        remedy: what to do about it.
        spoils: whether it falsifies measurements; else it only takes memory that a model may want.
    """

    what: str
    remedy: str
    spoils: bool = True


def host_state(
    host: Host | None = None, *, seconds: float = 1.0, gpu: bool = False, root: Path | None = None
) -> HostState:
    """Look at a host for a moment, in which nothing of ours runs there.

    Args:
        host: this machine by default.
        seconds: how long the load of others is sampled.
        gpu: whether to ask for NVIDIA GPUs too.
        root: where ``sys``, ``proc`` and ``etc`` are looked up, for tests.

    Raises:
        TargetError: the host does not answer.
    """
    place = host or LocalHost()
    asked = {"seconds": seconds, "gpu": gpu, **({} if root is None else {"root": str(root)})}
    report = place.run(AgentJob({"engine": "agent", "state": asked}, timeout_seconds=60.0 + seconds))
    if report.outcome != "ok":
        reason = report.message.removeprefix("agent: ").removeprefix(f"{place.name}: ")
        raise TargetError(f"the state of {place.name} cannot be told: {reason}")
    return HostState.from_dict(report.answer["state"])


def wrong_power_mode(wanted: str | None, now: str | None) -> str | None:
    """Why a machine is not in the power mode that a profile demands; None where it is, or where any will do."""
    if wanted is None or wanted == now:
        return None
    told = "which this machine does not tell" if now is None else f"it is {now}"
    return f"the profile demands the power mode {wanted}, {told}"


def mode_remedy(wanted: str, board: Mapping[str, Any] | None) -> str:
    """What to do to have a host in a power mode.

    Args:
        wanted: the mode.
        board: what its agent tells of a Jetson (``board`` of its facts and of its state); None for another machine.
    """
    if board is None:
        return f"set {wanted} and see"
    modes = board.get("modes") or {}
    if wanted in modes:
        return f"sudo nvpmodel -m {modes[wanted]}"
    if modes:
        return f"name one that it has in the profile: {', '.join(modes)}"
    return f"sudo nvpmodel -m ID, with the ID of {wanted} in its /etc/nvpmodel.conf"


def problems(state: HostState, power_mode: str | None = None, memory_bytes: int | None = None) -> tuple[Problem, ...]:
    """What would make a measurement wrong now, with what to do about it; empty where nothing does.

    Args:
        state: of the host.
        power_mode: that the hardware profile demands; None for any.
        memory_bytes: that the profile gives to a model and its engine; None for no limit.
    """
    found = [check(state) for check in _CHECKS]
    what = wrong_power_mode(power_mode, state.power_mode)
    if what is not None and power_mode is not None:
        found.append(Problem(what, mode_remedy(power_mode, state.board)))
    free = state.memory_free_bytes
    if memory_bytes is not None and free is not None and free < memory_bytes:
        what = f"{free / 1e9:.1f} GB of memory are free, and the profile gives {memory_bytes / 1e9:.1f} GB to a model"
        found.append(Problem(what, "end what else runs there, or lower memory_bytes in the profile"))
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
    # The power mode of a Jetson is such a limit, and is looked at by its name.
    if now is None or possible is None or now >= possible or state.board is not None:
        return None
    remedy = f"sudo cpupower frequency-set -u {possible:.0f}MHz"
    return Problem(f"the clock is limited to {now:.0f} of {possible:.0f} MHz", remedy)


def _on_battery(state: HostState) -> Problem | None:
    return Problem("it runs on battery", "connect it to the mains") if state.mains is False else None


def _unlocked(state: HostState) -> Problem | None:
    if state.board is None or state.board["clocks_locked"] is not False:
        return None
    what = "its clocks follow the load, so that small networks are timed at low ones"
    return Problem(what, "sudo jetson_clocks (again after each start of the board)")


def _unwatched(state: HostState) -> Problem | None:
    if state.board is None:
        return None
    if state.board["tegrastats"] is None:
        what = "it has no tegrastats: nobody sees its power, or its clocks dropping"
        return Problem(what, "sudo apt install nvidia-l4t-tools, or run outside of the container", spoils=False)
    watched = state.board.get("watched") or {}
    if watched.get("message") is not None:
        what = f"tegrastats does not tell power and memory; it prints: {watched['message']}"
        return Problem(what, f"see what {state.board['tegrastats']} prints there", spoils=False)
    return None


def _overcurrent(state: HostState) -> Problem | None:
    if state.board is None:
        return None
    now = state.board.get("new_overcurrent") or 0
    alarms = now + (state.board["overcurrent"] or 0)
    if not alarms:
        return None
    nano = "Jetson Nano" in (state.board["model"] or "")
    remedy = (
        "power it by the barrel jack with 5 V and 4 A (jumper J48 set), not by USB"
        if nano
        else "use the power supply that its maker names, or a lower power mode"
    )
    what = f"{alarms} over-current alarms since the board was started: its power supply is too weak"
    return Problem(what, remedy, spoils=now > 0)


def _desktop(state: HostState) -> Problem | None:
    if state.board is None or not state.board["desktop"] or not _small(state):
        return None
    remedy = "sudo systemctl set-default multi-user.target && sudo reboot"
    return Problem("a desktop runs, and takes about 1 GB of its memory", remedy, spoils=False)


def _without_swap(state: HostState) -> Problem | None:
    if state.board is None or state.board["swap_disk_bytes"] != 0 or not _small(state):
        return None
    kind = "compressed memory (zram) for swap only" if state.board["swap_bytes"] else "no swap"
    remedy = (
        "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
    )
    return Problem(f"it has {kind}: the building of engines may be killed for want of memory", remedy, spoils=False)


def _small(state: HostState) -> bool:
    return state.memory_bytes is not None and state.memory_bytes <= SMALL_BOARD


_CHECKS: tuple[Callable[[HostState], Problem | None], ...] = (
    _busy,
    _slow_governor,
    _hot,
    _limited,
    _on_battery,
    _unlocked,
    _unwatched,
    _overcurrent,
    _desktop,
    _without_swap,
)
