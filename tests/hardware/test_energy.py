"""Energy and the GPU's facts: arithmetic by hand, a /sys tree of our own, and a driver that is played."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autocompress.hardware.agent import energy, gpu, protocol


def zone(root: Path, name: str, kind: str, energy: str, span: str | None = "262143328850") -> None:
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    if span is not None:
        (folder / "max_energy_range_uj").write_text(f"{span}\n")


def test_packages_are_read_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "5000000")
    zone(tmp_path, "intel-rapl:0:0", "core", "3000000")
    zone(tmp_path, "intel-rapl:1", "package-1", "7000000", None)
    zone(tmp_path, "intel-rapl:2", "psys", "9000000")
    (tmp_path / "intel-rapl").mkdir()
    counters = energy.rapl_counters(str(tmp_path))
    assert counters == {"intel-rapl:0": (5.0, pytest.approx(262143.32885)), "intel-rapl:1": (7.0, None)}


def test_what_only_root_may_read_is_not_there(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "")
    assert energy.rapl_counters(str(tmp_path)) == {}
    assert energy.rapl_counters(str(tmp_path / "nowhere")) == {}


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ({"a": (10.0, 100.0)}, {"a": (12.5, 100.0)}, 2.5),
        ({"a": (99.0, 100.0)}, {"a": (1.5, 100.0)}, 2.5),  # 1 to the end, 1.5 after it
        ({"a": (1.0, None), "b": (5.0, None)}, {"a": (2.0, None), "b": (7.0, None)}, 3.0),
        ({"a": (2.0, None)}, {"a": (1.0, None)}, None),  # the driver was loaded again
        ({"a": (2.0, None)}, {"a": (2.0, None)}, None),  # nothing counts: not the same as no energy
        ({"a": (1.0, None)}, {}, None),
        ({}, {}, None),
    ],
)
def test_energy_between_two_readings(before: Any, after: Any, joules: float | None) -> None:
    assert energy.energy_used(before, after) == (None if joules is None else pytest.approx(joules))


def test_one_inference_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 runs between two readings that are 32 joules apart take half a joule each."""
    readings = iter([{"gpu": (100.0, None)}, {"gpu": (132.0, None)}])
    monkeypatch.setattr(protocol, "energy_counters", lambda engine: next(readings))
    settings = {"min_runs": 64, "min_seconds": 0.0, "max_seconds": 0.0, "interval": 0.02}
    found = protocol.timed_series(SimpleNamespace(run=lambda sample: sample), [0], settings)
    assert found["latency"]["runs"] == 64
    assert found["energy_joules"] == 0.5


class Driver:
    """NVML as far as it is asked: it writes through pointers and answers 0 where it did."""

    def __init__(self, **missing: int) -> None:
        self.codes = missing
        self.handles: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        if name == "nvmlDeviceGetMaxClockInfo":
            raise AttributeError(name)  # an old driver
        return lambda *arguments: self.codes.get(name, self.answer(name, *arguments))

    def answer(self, name: str, *arguments: Any) -> int:
        numbers = {
            "nvmlDeviceGetClockInfo": {1: 1755, 2: 2619},
            "nvmlDeviceGetTemperature": {0: 41},
        }
        plain = {
            "nvmlDeviceGetPowerUsage": 68250,
            "nvmlDeviceGetEnforcedPowerLimit": 700000,
            "nvmlDeviceGetPerformanceState": 0,
            "nvmlDeviceGetTotalEnergyConsumption": 2**40 + 1500,  # more than 32 bits
        }
        if name == "nvmlInit_v2":
            return 0
        if name == "nvmlDeviceGetHandleByPciBusId_v2":
            self.handles.append(arguments[0].value)
            arguments[1]._obj.value = 77
            return 0
        if name == "nvmlSystemGetDriverVersion":
            arguments[0].value = b"570.86.15"
            return 0
        assert arguments[0].value == 77
        if name == "nvmlDeviceGetName":
            arguments[1].value = b"NVIDIA H100"
        elif name in numbers:
            arguments[2]._obj.value = numbers[name][arguments[1]]
        elif name in plain:
            arguments[1]._obj.value = plain[name]
        elif name == "nvmlDeviceGetComputeRunningProcesses_v3":
            arguments[1]._obj.value = 2
            arguments[2][0].number, arguments[2][0].memory = os.getpid(), 500 * 2**20
            arguments[2][1].number, arguments[2][1].memory = 1, 2**64 - 1
        else:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        return 0


class Cuda:
    """libcuda for one device at a known place."""

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = 3
        return 0

    def cuDeviceGetPCIBusId(self, text: Any, length: int, device: Any) -> int:  # noqa: N802
        assert device.value == 3
        text.value = b"0000:1B:00.0"
        return 0


def test_the_gpu_is_the_one_that_cuda_uses_and_tells_what_it_knows() -> None:
    driver = Driver()
    card = gpu.Gpu.of(Cuda(), driver)
    assert card is not None
    assert driver.handles == [b"0000:1B:00.0"]
    assert card.facts() == {
        "name": "NVIDIA H100",
        "driver": "570.86.15",
        "max_sm_clock_mhz": None,
        "max_memory_clock_mhz": None,
        "power_limit_w": 700.0,
    }
    assert card.state() == {
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619,
        "temperature_c": 41,
        "power_w": 68.25,
        "performance_state": 0,
        "process_memory_bytes": 500 * 2**20,
        "other_processes": 1,
    }
    assert card.energy() == pytest.approx((2**40 + 1500) / 1000)


def test_what_a_gpu_does_not_tell_is_unknown() -> None:
    card = gpu.Gpu.of(Cuda(), Driver(nvmlDeviceGetTotalEnergyConsumption=3, nvmlDeviceGetPowerUsage=3))
    assert card is not None
    assert card.energy() is None
    assert card.state()["power_w"] is None
    assert energy.energy_counters(SimpleNamespace(device="cuda", gpu=card)) == {}
    assert energy.energy_counters(SimpleNamespace(device="cuda", gpu=None)) == {}
    assert gpu.Gpu.of(Cuda(), Driver(nvmlInit_v2=9)) is None


def test_a_machine_without_the_libraries_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu.Gpu.find() is None


@pytest.mark.parametrize(
    ("processes", "share"),
    [
        ({}, (None, None)),
        ({5: 100}, (100, 0)),
        ({5: 100, 6: 200}, (100, 1)),
        ({6: 200}, (200, 0)),  # in a container: the one that is there is this one, under the host's number
        ({6: 200, 7: 300}, (None, 1)),
    ],
)
def test_who_else_computes_on_the_gpu(processes: Any, share: Any) -> None:
    assert gpu.gpu_share(processes, 5) == share
