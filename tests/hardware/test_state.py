"""The state of a host, told by its agent, and what of it would spoil a measurement."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import TargetError
from autocompress.hardware.agent import facts
from autocompress.hardware.agent import state as agent_state
from autocompress.hardware.hosts import AgentJob, AgentReport
from autocompress.hardware.state import HostState, host_state, problems
from tests.standins.launching import install_board, write_board

IDLE = HostState("Abacus 9", 2, 2, foreign_load=0.01, stolen=0.0, governor="performance", mains=True)
NANO = replace(
    IDLE,
    memory_bytes=3956 * 2**20,
    memory_free_bytes=3 * 10**9,
    power_mode="MAXN",
    board={
        "model": "NVIDIA Jetson Nano Developer Kit",
        "modes": {"MAXN": 0, "5W": 1},
        "clocks_locked": True,
        "overcurrent": 0,
        "new_overcurrent": 0,
        "tegrastats": "/usr/bin/tegrastats",
        "watched": {"samples": 4},
        "desktop": False,
        "swap_bytes": 4 * 2**30,
        "swap_disk_bytes": 4 * 2**30,
    },
)


def nano(**changes: Any) -> HostState:
    assert NANO.board is not None
    return replace(NANO, board={**NANO.board, **changes})


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"foreign_load": 0.5}, "others use 50 % of a core", "end what else runs"),
        ({"foreign_load": 0.5, "stolen": 0.4}, "taken by the hypervisor", "a machine of your own"),
        ({"governor": "performance+powersave"}, "governor is powersave", "cpupower frequency-set -g performance"),
        ({"throttled": 3}, "slowed down 3 times", "cool"),
        ({"clock_limit_mhz": 1500.0, "max_clock_mhz": 3000.0}, "limited to 1500 of 3000 MHz", "-u 3000MHz"),
        ({"mains": False}, "on battery", "mains"),
        (
            {"temperatures_c": {"0/cpu": 94.0, "1/x": 99.0}, "temperature_limits_c": {"0/cpu": 95.0}},
            "thermal zone 0/cpu is at 94 °C, its limit is 95 °C",
            "cool",
        ),
    ],
)
def test_each_problem_comes_with_what_to_do(change: dict[str, Any], what: str, remedy: str) -> None:
    (found,) = problems(replace(IDLE, **change))
    assert what in found.what
    assert remedy in found.remedy
    assert found.spoils


def test_an_idle_machine_has_no_problem_and_silence_is_none() -> None:
    assert problems(IDLE) == ()
    assert problems(HostState("Abacus 9", 1, 1)) == ()
    assert problems(replace(IDLE, foreign_load=0.059)) == ()
    assert problems(replace(IDLE, power_mode="MAXN"), "MAXN") == ()
    assert "does not tell" in problems(IDLE, "MAXN")[0].what
    assert "it is quiet" in problems(replace(IDLE, power_mode="quiet"), "MAXN")[0].what


@pytest.mark.parametrize(
    ("change", "what", "remedy", "spoils"),
    [
        ({"clocks_locked": False}, "clocks follow the load", "sudo jetson_clocks", True),
        ({"desktop": True}, "a desktop runs", "systemctl set-default multi-user.target", False),
        ({"swap_bytes": 0, "swap_disk_bytes": 0}, "it has no swap", "swapon /swapfile", False),
        ({"swap_disk_bytes": 0}, "compressed memory (zram)", "swapon /swapfile", False),
        ({"overcurrent": 3}, "3 over-current alarms", "5 V and 4 A (jumper J48", False),
        ({"new_overcurrent": 1}, "1 over-current alarms", "barrel jack", True),
        ({"model": "NVIDIA Jetson Orin Nano", "overcurrent": 3}, "too weak", "that its maker names", False),
        ({"tegrastats": None}, "no tegrastats", "nvidia-l4t-tools", False),
        ({"watched": {"message": "run it as root"}}, "run it as root", "/usr/bin/tegrastats", False),
    ],
)
def test_what_is_wrong_with_a_board_comes_with_what_to_do(
    change: dict[str, Any], what: str, remedy: str, spoils: bool
) -> None:
    (found,) = problems(nano(**change), "MAXN")
    assert what in found.what
    assert remedy in found.remedy
    assert found.spoils is spoils


def test_a_board_in_order_has_no_problem() -> None:
    assert problems(NANO, "MAXN", 25 * 10**8) == ()
    # Its mode, and not a frequency, limits the clock.
    assert problems(replace(NANO, clock_limit_mhz=918.0, max_clock_mhz=1479.0)) == ()
    # One with more memory may have a desktop, and needs no swap.
    big = replace(nano(desktop=True, swap_bytes=0, swap_disk_bytes=0), memory_bytes=8 * 10**9)
    assert problems(big) == ()
    unknown = {"clocks_locked": None, "overcurrent": None, "desktop": None, "swap_disk_bytes": None}
    assert problems(nano(**unknown)) == ()


def test_the_command_for_a_power_mode() -> None:
    (found,) = problems(replace(NANO, power_mode="5W"), "MAXN")
    assert (found.what, found.remedy) == (
        "the profile demands the power mode MAXN, it is 5W",
        "sudo nvpmodel -m 0",
    )
    (other,) = problems(NANO, "25W")
    assert other.remedy == "name one that it has in the profile: MAXN, 5W"
    (unknown,) = problems(nano(modes={}), "25W")
    assert "sudo nvpmodel -m ID" in unknown.remedy


def test_too_little_free_memory_for_the_profile() -> None:
    (found,) = problems(replace(IDLE, memory_free_bytes=2 * 10**9), memory_bytes=25 * 10**8)
    assert found.what == "2.0 GB of memory are free, and the profile gives 2.5 GB to a model"
    assert found.spoils


def test_the_state_is_read_from_the_kernel(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 4000 kB\nMemAvailable: 3000 kB\n",
        "sys/firmware/acpi/platform_profile": "balanced\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3000000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "2000000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/temp": "51500\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "active\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "40000\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "95000\n",
        "sys/class/thermal/thermal_zone0/trip_point_2_type": "critical\n",
        "sys/class/thermal/thermal_zone0/trip_point_2_temp": "105000\n",
        "sys/class/thermal/thermal_zone1/type": "PMIC-Die\n",
        "sys/class/thermal/thermal_zone1/temp": "100000\n",
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
        "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    state = host_state(seconds=0.01, root=tmp_path)
    assert (state.memory_bytes, state.memory_free_bytes) == (4000 * 1024, 3000 * 1024)
    assert (state.max_clock_mhz, state.clock_limit_mhz) == (3000.0, 1500.0)
    # The chip that always says 100 degrees and the zone that is turned off are left out.
    assert state.temperatures_c == {"0/x86_pkg_temp": 51.5}
    assert state.temperature_limits_c == {"0/x86_pkg_temp": 95.0}
    assert (state.power_mode, state.throttled) == ("balanced", 0)
    json.dumps(state.to_dict())


def test_the_state_of_a_board_by_its_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    install_board(programs, board="orin", mode=1, user=True)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    root = write_board(tmp_path / "root", board="orin", **{"sys/class/hwmon/hwmon3/oc3_event_cnt": "2\n"})
    state = host_state(seconds=0.5, gpu=True, root=root)
    assert state.board is not None
    told = {name: state.board[name] for name in ("l4t", "jetpack", "mode", "mode_id", "overcurrent", "clocks_locked")}
    assert told == {
        "l4t": "36.4.3", "jetpack": "6.2", "mode": "25W", "mode_id": 1, "overcurrent": 2, "clocks_locked": True,
    }  # fmt: skip
    assert state.power_mode == "25W"
    assert state.board["watched"]["power_w"] == 5.336
    assert HostState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    (mode,) = [each for each in problems(state, "MAXN_SUPER") if "power mode" in each.what]
    assert mode.remedy == "sudo nvpmodel -m 2"


def test_gpus_are_told_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "NVIDIA H100 80GB HBM3, 345, 1980, 31, 81559, 81003\nNVIDIA T4, [N/A], 1590, 40, 1, 1\n"
    monkeypatch.setattr(agent_state, "told_by", lambda *_: told)
    first, second = agent_state.gpus()
    assert (first["name"], first["clock_mhz"], first["max_clock_mhz"]) == ("NVIDIA H100 80GB HBM3", 345, 1980)
    assert first["memory_bytes"] == 81559 * 2**20
    assert second["clock_mhz"] is None
    monkeypatch.setattr(agent_state, "told_by", lambda *_: None)
    assert agent_state.gpus() == []


class Silent:
    """A host that does not answer."""

    name = "nobody@nowhere"

    def run(self, job: AgentJob) -> AgentReport:
        return AgentReport("lost", "agent: the link to the host was lost while starting", {}, "starting", 1.0)


def test_a_host_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(TargetError, match=r"the state of nobody@nowhere cannot be told: the link .* was lost"):
        host_state(Silent())


def test_the_facts_of_a_run_are_those_of_the_state() -> None:
    state, host = host_state(seconds=0.0), facts.host_facts()
    assert (state.cpu_model, state.cores, state.memory_bytes) == (
        host["cpu_model"],
        host["cores"],
        host["memory_bytes"],
    )
