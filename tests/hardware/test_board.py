"""The facts of a Jetson board: read from files as its system has them, and from stand-ins for its programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from autocompress.hardware.agent import board, facts, reading
from tests.standins.launching import install_board, write_board


@pytest.fixture(autouse=True)
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine of the tests has installed does not matter."""
    for name in ("SYSTEM_FOLDERS", "TEGRASTATS_FOLDERS"):
        monkeypatch.setattr(board, name, ())
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))


def test_a_machine_without_a_release_and_tools_is_no_board(tmp_path: Path) -> None:
    assert board.board_facts(str(tmp_path)) is None
    assert board.board_state(str(tmp_path), None) is None


def test_the_facts_of_a_nano(tmp_path: Path) -> None:
    assert board.board_facts(str(write_board(tmp_path))) == {
        "model": "NVIDIA Jetson Nano Developer Kit",
        "l4t": "32.7.1",
        "jetpack": "4.6.1",
        "mode": "MAXN",
        "mode_id": 0,
        "modes": {"MAXN": 0, "5W": 1},
        "clocks_locked": True,
        "gpu_max_clock_mhz": 921.6,
        "swap_bytes": 4194300 * 1024,
        "swap_disk_bytes": 4194300 * 1024,
        "desktop": False,
    }


def test_the_state_of_an_orin(tmp_path: Path) -> None:
    changes = {
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
        "sys/class/hwmon/hwmon1/name": "ina3221\n",
        "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon3/oc2_event_cnt": "15\n",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n",
        "proc/77/comm": "gnome-shell\n",
    }
    root = str(write_board(tmp_path, board="orin", **changes))
    found = board.board_state(root, board.board_facts(root))
    assert found is not None
    assert (found["l4t"], found["jetpack"]) == ("36.4.3", "6.2")
    assert (found["mode"], found["mode_id"]) == ("MAXN_SUPER", 2)
    assert found["modes"] == {"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3}
    assert (found["gpu_clock_mhz"], found["gpu_max_clock_mhz"]) == (624.8, 1020.0)
    assert (found["overcurrent"], found["desktop"]) == (52, True)


@pytest.mark.parametrize(
    ("text", "l4t"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64", "32.7.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 36106755", "36.3.0"),
        ("# R35 (release), REVISION: 6, GCID: 1", "35.6.0"),
        ("another file", None),
    ],
)
def test_the_release_of_jetson_linux(text: str, l4t: str | None) -> None:
    assert board.l4t_release(text) == l4t


def test_a_release_that_is_not_in_the_table_is_looked_up_or_unknown(tmp_path: Path) -> None:
    assert board.jetpack("32.7.4", str(tmp_path)) == "4.6.4"
    assert board.jetpack("99.1.0", str(tmp_path)) is None
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: other\nVersion: 1.0\n\nPackage: nvidia-jetpack\nStatus: install ok\nVersion: 9.1+b2\n\n"
        "Package: last\nVersion: 2\n"
    )
    assert board.jetpack("99.1.0", str(tmp_path)) == "9.1+b2"
    assert board.jetpack(None, str(tmp_path)) == "9.1+b2"


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", ("MAXN", 0)),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", ("MODE_15W_6CORE", 2)),
        ("NV Power Mode: 5W\n", ("5W", None)),
        ("NVPM ERROR: no such file\n", (None, None)),
    ],
)
def test_what_nvpmodel_prints(text: str, mode: Any) -> None:
    assert board.nvpmodel_mode(text) == mode


@pytest.mark.parametrize(
    ("changes", "locked"),
    [
        ({"sys/class/devfreq/57000000.gpu/min_freq": "76800000\n"}, False),
        ({"sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq": "102000\n"}, True),  # without the other side: unknown
        (
            {
                "sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq": "102000\n",
                "sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq": "1479000\n",
            },
            False,
        ),
    ],
)
def test_clocks_are_locked_where_none_of_them_can_change(tmp_path: Path, changes: Any, locked: bool) -> None:
    assert board.clocks_locked(str(write_board(tmp_path, **changes))) is locked


def test_where_no_clock_is_told_nobody_knows_whether_they_are_locked(tmp_path: Path) -> None:
    assert board.clocks_locked(str(tmp_path)) is None
    assert board.locked_by_show("Error: Please run this as root") is None


def test_compressed_memory_is_no_swap_on_disk(tmp_path: Path) -> None:
    swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 507000 0 5\n/dev/zram1 partition 507000 0 5\n"
    found = board.board_facts(str(write_board(tmp_path, **{"proc/swaps": swaps})))
    assert found is not None
    assert found["swap_disk_bytes"] == 0
    assert found["swap_bytes"] == 4194300 * 1024


def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{install_board(folder, **given)}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_the_programs_of_a_board_tell_mode_and_alarms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, board="orin", mode=2, fail="alarm-once")
    found = board.board_facts()
    assert found is not None
    assert (found["mode"], found["mode_id"]) == ("MAXN_SUPER", 2)
    first, second, third = (board.overcurrent() for _ in range(3))
    assert (board.new_alarms(first, second), board.new_alarms(second, third)) == (1, 0)
    told = facts.host_facts()
    assert told["board"] == found
    assert (told["power"]["mode"], told["power"]["clocks_locked"]) == ("MAXN_SUPER", found["clocks_locked"])


def test_jetson_clocks_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch)
    shown = reading.told_by(("jetson_clocks", "--show"))
    assert board.locked_by_show(str(shown)) is True  # cpu2 is turned off, and does not matter
    install_board(tmp_path / "programs", clocks="free")
    assert board.locked_by_show(str(reading.told_by(("jetson_clocks", "--show")))) is False
    install_board(tmp_path / "programs", clocks="root")
    assert reading.told_by(("jetson_clocks", "--show")) is None


def test_where_nvpmodel_fails_its_file_tells_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, fail="error")
    root = write_board(tmp_path / "root", **{"var/lib/nvpmodel/status": "pmode:0001\n"})
    assert board.power_mode(str(root)) == ("5W", 1)
    assert board.power_mode(str(tmp_path / "nowhere")) == (None, None)


def test_a_program_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path, monkeypatch, fail="hang")
    assert reading.told_by(("nvpmodel", "-q"), 0.3) is None


def test_a_machine_that_is_no_board_has_none_in_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "is_board", lambda root: False)
    told = facts.host_facts()
    assert told["board"] is None
    assert "clocks_locked" not in told["power"]


def test_alarms_that_cannot_be_seen_are_none_that_came() -> None:
    assert board.new_alarms(None, (3, frozenset())) == 0
    assert board.new_alarms((3, frozenset()), (5, frozenset())) == 2
