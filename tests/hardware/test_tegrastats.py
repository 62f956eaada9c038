"""A Jetson watched during a timing: both line formats, dropping clocks, power of the input rail.

What tegrastats prints follows published lines; the program that is run is the stand-in in ``tests/standins``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.hardware.agent import tegrastats
from autocompress.hardware.agent.energy import rapl_counters
from autocompress.hardware.agent.tegrastats import Sample, Seen, Watch, parse_line, parse_log
from autocompress.hardware.measure import measure
from autocompress.hardware.records import Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import inspect_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.schemas import HardwareProfile
from tests.standins.launching import install, install_board, target_of

NANO = (
    "RAM 1504/3956MB (lfb 331x4MB) SWAP 0/6074MB (cached 0MB) CPU [19%@1479,off,off,off] EMC_FREQ 9%@1600 "
    "GR3D_FREQ 99%@921 PLL@38C CPU@43C PMIC@100C GPU@41.5C AO@49.5C thermal@42.25C "
    "POM_5V_IN 4523/3422 POM_5V_GPU 1113/313 POM_5V_CPU 538/701"
)
ORIN = (
    "06-13-2026 14:17:07 RAM 3308/7607MB (lfb 32x4MB) SWAP 11/3804MB (cached 0MB) CPU [0%@1510,12%@1510] "
    "GR3D_FREQ 12%@[1300,1020] NVDEC off cpu@61.5C gpu@62.3C cv0@-256C tj@45C "
    "VDD_IN 5336mW/4970mW VDD_CPU_GPU_CV 1959mW/1943mW VDD_SOC 1562mW/1282mW"
)
XAVIER = (
    "RAM 2430/15698MB (lfb 2801x4MB) CPU [5%@1190,off] EMC_FREQ 0% GR3D_FREQ 0% AUX@36C Tboard@37C Tdiode@39.25C "
    "GPU 0/0 CPU 311/311 SOC 933/930 CV 0/0 VDDRQ 155/155 SYS5V 1489/1489"
)


def test_a_line_of_a_nano() -> None:
    assert parse_line(NANO) == Sample(
        memory_bytes=1504 * 2**20,
        gpu_load=99.0,
        gpu_clock_mhz=921.0,
        temperatures_c={"PLL": 38.0, "CPU": 43.0, "GPU": 41.5, "AO": 49.5, "thermal": 42.25},
        rails_mw={"POM_5V_IN": 4523, "POM_5V_GPU": 1113, "POM_5V_CPU": 538},
    )


def test_a_line_of_an_orin() -> None:
    found = parse_line(ORIN)
    assert found is not None
    assert (found.gpu_load, found.gpu_clock_mhz, found.memory_bytes) == (12.0, 1300.0, 3308 * 2**20)
    assert found.temperatures_c == {"cpu": 61.5, "gpu": 62.3, "tj": 45.0}  # cv0 is turned off
    assert (found.rail(), found.power_w()) == ("VDD_IN", 5.336)


@pytest.mark.parametrize(
    ("text", "load", "clock"),
    [
        ("GR3D_FREQ 99%@921", 99.0, 921.0),
        ("GR3D_FREQ 99%", 99.0, None),
        ("GR3D_FREQ @[314,314,314]", None, 314.0),
        ("GR3D 41%@140", 41.0, 140.0),
        ("", None, None),
    ],
)
def test_what_tegrastats_tells_of_the_gpu(text: str, load: float | None, clock: float | None) -> None:
    found = parse_line(f"RAM 9000/125772MB (lfb 2x4MB) {text} cpu@40C")
    assert found is not None
    assert (found.gpu_load, found.gpu_clock_mhz) == (load, clock)


def test_without_an_input_rail_the_others_add_up() -> None:
    found = parse_line(XAVIER)
    assert found is not None
    assert found.power_w() == (0 + 311 + 933 + 0 + 155 + 1489) / 1000
    assert found.rail() == "CPU+CV+GPU+SOC+SYS5V+VDDRQ"
    bare = parse_line("RAM 1/2MB GR3D_FREQ 0%")
    assert bare is not None
    assert (bare.rail(), bare.power_w()) == (None, None)


def test_other_lines_are_none() -> None:
    assert parse_line("") is None
    assert parse_line("tegrastats: permission denied") is None
    assert parse_log("Usage: tegrastats\n\n") == []


def test_the_clock_that_a_user_is_not_told_comes_from_the_kernel() -> None:
    line = NANO.replace("@921", "")
    first, second = parse_log(f"gpu 921600000 995\n{line}\ngpu 614400000 -\n{NANO}\n")
    assert (first.gpu_clock_mhz, first.gpu_load) == (921.6, 99.0)
    assert second.gpu_clock_mhz == 921.0  # tegrastats' own figure goes before
    alone = parse_log("gpu 921600000 995\ngpu 614400000 20\n")
    assert [(each.gpu_clock_mhz, each.gpu_load, each.busy()) for each in alone] == [
        (921.6, 99.5, True),
        (614.4, 2.0, False),
    ]


def seen(
    *clocks: float, before: tuple[float, ...] = (), loads: tuple[float, ...] = (), alarms: int = 0, **limits: float
) -> Seen:
    """A series with these GPU clocks, at full load where ``loads`` says nothing else."""

    def samples(values: tuple[float, ...], busy: tuple[float, ...]) -> list[Sample]:
        given = busy or (99.0,) * len(values)
        return [
            Sample(2**20, load, clock, {}, {"VDD_IN": int(clock)}) for clock, load in zip(values, given, strict=True)
        ]

    return Seen(samples(before, ()), samples(clocks, loads), "", 0.0, alarms, limits)


def test_a_gpu_clock_that_drops_is_seen() -> None:
    assert seen(921, 921, 921, 921).throttled(True) is None
    # One sample of four, and clocks within 3 %, say nothing.
    assert seen(921, 921, 921, 614).throttled(True) is None
    assert seen(921, 900, 900, 900).throttled(True) is None
    text = seen(921, 921, 614, 614).throttled(True)
    assert text is not None and "below 97 % of 921 MHz in 2 of 4 samples, down to 614 MHz" in text
    # In a whole series it is only seen against what was before, or where it is known what it should be.
    assert seen(614, 614, 614).throttled(True) is None
    assert "of 921 MHz in 3 of 3" in str(seen(614, 614, 614, before=(921, 614)).throttled(True))
    assert "of 922 MHz in 3 of 3" in str(seen(614, 614, 614, min_freq=921.6, max_freq=921.6).throttled(True))
    # Clocks that follow the load are none to count on, and the way to change that is told.
    assert seen(614, 614, min_freq=76.8, max_freq=921.6).throttled(True) is None
    assert "sudo jetson_clocks" in str(seen(614, 614, before=(921,), min_freq=76.8, max_freq=921.6).throttled(True))


def test_an_idle_gpu_is_not_slow() -> None:
    idle = seen(921, 76, 76, 76, loads=(99, 0, 0, 2))
    assert idle.throttled(True) is None
    assert idle.summary(True)["gpu_clock_mhz"] == {"min": 921.0, "median": 921.0, "max": 921.0}
    # An engine on the processor leaves it idle all the time.
    assert seen(921, 76, 76).throttled(False) is None
    assert seen().throttled(True) is None


def test_an_over_current_alarm_is_a_reason_on_any_engine() -> None:
    assert seen(921, alarms=1).throttled(False) == "1 over-current alarm came"
    assert "; 2 over-current alarms came" in str(seen(921, 614, alarms=2).throttled(True))


def test_power_is_that_of_the_time_in_which_the_gpu_computed() -> None:
    found = seen(4000, 6000, 2000, loads=(99, 50, 0))  # mW here
    assert found.power_w(True) == 5.0
    assert found.power_w(False) == 4.0
    assert seen().power_w(True) is None


def test_the_watchers_own_time_is_no_foreign_load() -> None:
    found = seen()
    found.cpu_seconds = 0.2
    assert found.without_watching(0.15, 2.0) == 0.05
    assert found.without_watching(0.05, 2.0) == 0.0
    assert found.without_watching(None, 2.0) is None


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def make(**given: Any) -> Path:
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.chdir(tmp_path)
        return install_board(tmp_path, **given)

    return make


def wait_until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_watch_sees_what_is_printed_and_takes_time_of_its_own(board: Callable[..., Path]) -> None:
    board(board="orin")
    watch = Watch.start()
    assert watch is not None
    try:
        wait_until(lambda: len(watch.seen((0, 0.0, None)).samples) > 2)
        begin = watch.mark()
        wait_until(lambda: len(watch.seen(begin).samples) > 2)
        found = watch.seen(begin)
        assert watch.seen((0, 0.0, None)).cpu_seconds > 0  # an interpreter was started
    finally:
        watch.stop()
    assert len(found.before) > 2
    told = found.summary(True)
    assert (told["power_w"], told["rail"], told["memory_peak_bytes"]) == (5.336, "VDD_IN", 3308 * 2**20)
    assert told["gpu_clock_mhz"]["max"] == 1020.0
    assert watch.processes == []


def test_a_user_sees_the_gpu_clock_by_the_kernel(
    board: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board(board="orin", user=True)
    gpu = tmp_path / "17000000.gpu"
    (gpu / "device").mkdir(parents=True)
    (gpu / "cur_freq").write_text("1020000000\n")
    (gpu / "device" / "load").write_text("995\n")
    monkeypatch.setattr(tegrastats, "gpu_folder", lambda: str(gpu))
    watch = Watch.start()
    assert watch is not None
    try:

        def told() -> set[float]:
            samples = watch.seen((0, 0.0, None)).samples
            return {each.gpu_clock_mhz for each in samples if each.rails_mw and each.gpu_clock_mhz}

        wait_until(lambda: told() == {1020.0})
        (gpu / "cur_freq").write_text("624000000\n")
        wait_until(lambda: told() == {1020.0, 624.0})
    finally:
        watch.stop()


def test_without_tegrastats_nothing_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tegrastats, "tegrastats_program", lambda: None)
    assert Watch.start() is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tegrastats").write_text("no program at all")
    broken = Watch(str(tmp_path / "tegrastats"))  # its start fails; the measurement goes on
    found = broken.seen((0, 0.0, None)).summary(True)
    broken.stop()
    assert (found["samples"], found["power_w"]) == (0, None)


def test_it_ends_with_a_process_that_is_killed(board: Callable[..., Path]) -> None:
    folder = board()
    script = (
        "import time\nfrom autocompress.hardware.agent.tegrastats import Watch\nwatch = Watch.start()\n"
        "print(watch.processes[0].pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        watcher = int(process.stdout.readline())
        wait_until(lambda: (folder / "tegrastats.log").stat().st_size)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(watcher))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


Run = Callable[..., Measurement]


@pytest.fixture
def measured(
    board: Callable[..., Path],
    tmp_path: Path,
    make_model: Callable[..., Path],
    image: Callable[..., Any],
    quick: MeasureSettings,
) -> Run:
    def run(fail: str, *, processor: bool = False, **settings: Any) -> Measurement:
        board(fail=fail)
        engine = {"name": "onnxruntime", "threads": 1}
        profile = HardwareProfile.from_dict({"name": "board", "engines": [engine]})
        target = inspect_target(profile) if processor else target_of(install(tmp_path))
        room = Turnstile(tmp_path / "turnstile")
        model = make_model(tmp_path / "m.onnx", opset=13)
        wanted = replace(quick, **settings)
        return measure(model, target, inputs=image(), settings=wanted, turnstile=room).measurements[0]

    return run


def test_a_run_in_which_the_clock_dropped_is_repeated(measured: Run) -> None:
    found = measured("drop-once")
    assert found.ok and not found.disturbed and found.latency is not None
    assert (found.conditions["attempts"], found.conditions["throttled"]) == (2, None)
    told = found.conditions["tegrastats"]
    assert (told["rail"], told["power_w"], told["gpu_clock_mhz"]["median"]) == ("POM_5V_IN", 4.523, 921.0)
    # 4.523 W for as long as one inference takes
    assert found.energy_joules == pytest.approx(4.523 * found.latency.mean / 1000)


def test_a_clock_that_stays_low_marks_the_measurement(measured: Run) -> None:
    found = measured("drop", attempts=1)
    assert found.ok and found.disturbed
    assert found.conditions["attempts"] == 2  # it is repeated at least once
    assert "down to 614 MHz" in found.conditions["throttled"]


def test_an_engine_on_the_processor_is_watched_too(measured: Run) -> None:
    found = measured("alarm-once", processor=True, min_seconds=0.3, max_seconds=0.3, interval=0.0)
    assert found.ok and not found.disturbed and found.latency is not None
    assert (found.conditions["attempts"], found.conditions["throttled"]) == (2, None)
    if not rapl_counters():  # the processor's own counter goes before the rail
        assert found.energy_joules == pytest.approx(4.523 * found.latency.mean / 1000)
