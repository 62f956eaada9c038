"""``autocompress probe``: what a machine tells of itself, and whether it can be measured now."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.cli import main
from autocompress.errors import ExitCode
from autocompress.hardware import state as module
from autocompress.hardware.state import HostState, host_state, problems

IDLE = HostState("Abacus 9", 2, 2, foreign_load=0.01, stolen=0.0, governor="performance", mains=True)


def test_probe_tells_engines_state_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "cpu-onnxruntime"]) == ExitCode.DONE
    text = " ".join(capsys.readouterr().out.split())
    for word in ("onnxruntime", "fp32, int8", "opset", "processor:", "memory:", "clocks:", "load:", "verdict: "):
        assert word in text


def test_probe_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "cpu", "--engines", "onnxruntime", "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["engines"]] == ["onnxruntime"]
    assert found["engines"][0]["version"]
    assert {"precisions", "prune_patterns", "opset"} <= set(found["engines"][0])
    state = found["state"]
    assert state["cores"] >= 1
    assert 0 < state["memory_free_bytes"] <= state["memory_bytes"]
    assert found["measurable"] is (found["problems"] == [])


def test_what_cannot_be_probed_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(*arguments: object) -> str:
        assert main(["probe", *map(str, arguments)]) == ExitCode.USER_ERROR
        output = capsys.readouterr()
        (text,) = output.err.strip().splitlines()
        assert output.out == ""
        return str(text)

    (tmp_path / "far.yaml").write_text("host: {kind: ssh}\nengines: [{name: onnxruntime}]\n")
    (tmp_path / "none.yaml").write_text("engines: [{name: onnxruntime, python: /nowhere/python}]\n")
    assert "unknown target 'toaster'" in line("toaster")
    assert "target far is on another machine (host ssh), which this version cannot reach" in line(tmp_path / "far.yaml")
    assert "target none cannot be used here: onnxruntime" in line(tmp_path / "none.yaml")
    assert "has no engine 'abacus'" in line("cpu", "--engines", "abacus")


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


def test_an_idle_machine_has_no_problem_and_silence_is_none() -> None:
    assert problems(IDLE) == ()
    assert problems(HostState("Abacus 9", 1, 1)) == ()
    assert problems(replace(IDLE, foreign_load=0.059)) == ()
    assert problems(replace(IDLE, power_mode="MAXN"), "MAXN") == ()
    assert "does not tell" in problems(IDLE, "MAXN")[0].what
    assert "it is quiet" in problems(replace(IDLE, power_mode="quiet"), "MAXN")[0].what


def test_the_state_is_read_from_the_kernel(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 4000 kB\nMemAvailable: 3000 kB\n",
        "sys/firmware/acpi/platform_profile": "balanced\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3000000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "2000000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "active\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "40000\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "95000\n",
        "sys/class/thermal/thermal_zone0/trip_point_2_type": "critical\n",
        "sys/class/thermal/thermal_zone0/trip_point_2_temp": "105000\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    state = host_state(seconds=0.01, root=tmp_path)
    assert state.memory_free_bytes == 3000 * 1024
    assert (state.max_clock_mhz, state.clock_limit_mhz) == (3000.0, 1500.0)
    assert state.temperature_limits_c == {"0/x86_pkg_temp": 95.0}
    assert (state.power_mode, state.throttled) == ("balanced", 0)
    json.dumps(state.to_dict())


def test_gpus_are_told_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(
        stdout="NVIDIA H100 80GB HBM3, 345, 1980, 31, 81559, 81003\nNVIDIA T4, [N/A], 1590, 40, 1, 1\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)
    first, second = host_state(seconds=0.0, gpu=True).gpus
    assert (first["name"], first["clock_mhz"], first["max_clock_mhz"]) == ("NVIDIA H100 80GB HBM3", 345, 1980)
    assert first["memory_bytes"] == 81559 * 2**20
    assert second["clock_mhz"] is None

    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert module.host_state(seconds=0.0, gpu=True).gpus == ()
