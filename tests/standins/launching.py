"""Installing the stand-ins for trtexec and for a Jetson's tools into a folder of a test, set up as a certain board."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from autocompress.hardware.targets import Target, inspect_target
from autocompress.specs.schemas import HardwareProfile

STANDIN = Path(__file__).with_name("trtexec")
"""Our own program; it is no TensorRT."""
BOARDS = {"8.2.1": "NVIDIA Tegra X1/5.3", "10.3.0": "Orin/8.7"}
"""GPU of a board with that TensorRT: Jetson Nano, Jetson Orin Nano."""


BOARD_FAILURES = {
    "", "drop", "drop-once", "silent", "root",  # of tegrastats
    "alarm", "alarm-once",  # over-current: one more whenever the kernel's log is read; one, at the second reading
    "error", "hang",  # of nvpmodel
}  # fmt: skip


def install(folder: Path, *, version: str = "8.2.1", gpu: str | None = None, fail: str = "") -> Path:
    """Write a program ``trtexec`` that runs the stand-in with this interpreter; ``calls`` beside it gets its calls."""
    settings = {
        "STANDIN_TRT_VERSION": version,
        "STANDIN_TRT_GPU": BOARDS[version] if gpu is None else gpu,
        "STANDIN_TRT_FAIL": fail,
        "STANDIN_TRT_CALLS": str(folder / "calls"),
    }
    return _program(folder / "trtexec", settings)


def install_board(
    folder: Path, *, board: str = "nano", mode: int = 0, clocks: str = "locked", user: bool = False, fail: str = ""
) -> Path:
    """Write ``tegrastats``, ``nvpmodel``, ``jetson_clocks`` and ``dmesg`` that make a board of any machine.

    Args:
        folder: that the test puts in front of PATH.
        board: ``nano`` or ``orin``.
        mode: number of the power mode.
        clocks: ``locked``, ``free``, or ``root`` where jetson_clocks refuses.
        user: whether tegrastats tells as little as it does to users other than root.
        fail: one of `BOARD_FAILURES`.
    """
    if fail not in BOARD_FAILURES:
        raise ValueError(f"the stand-ins know no failure {fail!r}")
    (folder / "mode").write_text(str(mode))
    seen = {
        "STANDIN_TEGRA_FORMAT": board + "-user" * user,
        "STANDIN_TEGRA_SPEED": "10",
        "STANDIN_TEGRA_FAIL": fail if fail in ("drop", "drop-once", "silent", "root") else "",
        "STANDIN_TRT_CALLS": str(folder / "calls"),
    }
    kept = {"STANDIN_NVPMODEL_FILE": str(folder / "mode"), "STANDIN_NVPMODEL_BOARD": board}
    _program(folder / "tegrastats", seen)
    _program(folder / "nvpmodel", {**kept, "STANDIN_NVPMODEL_FAIL": fail if fail in ("error", "hang") else ""})
    _program(folder / "jetson_clocks", {"STANDIN_CLOCKS": clocks})
    readings = shlex.quote(str(folder / "dmesg.readings"))
    most = {"alarm": 1000, "alarm-once": 1}.get(fail, 0)
    lines = [
        "#!/bin/sh",
        f"echo >> {readings}",
        'echo "[    0.000000] Booting Linux on physical CPU 0x0"',
        f"alarms=$(($(wc -l < {readings}) - 1))",
        "n=0",
        f'while [ $n -lt $alarms ] && [ $n -lt {most} ]; do n=$((n + 1)); echo "[  $n.5] soctherm: OC ALARM 0x1"; done',
    ]
    (folder / "dmesg").write_text("\n".join([*lines, ""]))
    (folder / "dmesg").chmod(0o755)
    return folder


def write_board(root: Path, *, board: str = "nano", **changes: str) -> Path:
    """Write the files of a board's system below a folder: one with locked clocks, but for some changes by path."""
    nano = board == "nano"
    gpu = "sys/class/devfreq/57000000.gpu" if nano else "sys/class/devfreq/17000000.gpu"
    clock = "921600000" if nano else "1020000000"
    modes = ("MAXN", "5W") if nano else ("15W", "25W", "MAXN_SUPER", "7W")
    total = 4051048 if nano else 7790000
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0" if nano else "NVIDIA Jetson Orin Nano\0",
        "proc/meminfo": f"MemTotal: {total} kB\nMemAvailable: 3400000 kB\nSwapTotal: 4194300 kB\n",
        "proc/swaps": "Filename Type Size Used Priority\n/swapfile file 4194300 0 -2\n",
        "proc/1/comm": "systemd\n",
        "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n"
        if nano
        else "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "etc/nvpmodel.conf": "".join(
            f"< POWER_MODEL ID={i} NAME={name} >\nGPU MIN_FREQ 0\n" for i, name in enumerate(modes)
        ),
        "var/lib/nvpmodel/status": "pmode:0000\n",
        **{f"{gpu}/{name}_freq": f"{clock}\n" for name in ("cur", "min", "max")},
        **{f"sys/devices/system/cpu/cpu0/cpufreq/{name}_freq": "1479000\n" for name in ("scaling_min", "scaling_max")},
        **changes,
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def _program(path: Path, settings: dict[str, str]) -> Path:
    """Write a program that runs the stand-in of its name, set up so, with this interpreter."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    # A test may hide NumPy from the agent, but a stand-in may need it.
    standin = STANDIN.with_name(path.name)
    lines += ["unset PYTHONPATH", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(standin))} "$@"']
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def calls(program: Path, flag: str = "") -> list[list[str]]:
    """Arguments of all calls of an installed program, or of those that have a flag."""
    path = program.with_name("calls")
    made = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [call for call in made if not flag or any(argument.split("=")[0] == flag for argument in call)]


def target_of(program: Path, *, python: str | None = None, **options: Any) -> Target:
    """The target that a profile with this program would be; its engines are kept beside the program."""
    given = {"trtexec": str(program), "cache": str(program.parent / "engines"), **options}
    engine = {"name": "tensorrt", "precisions": ["fp32", "fp16", "int8"], "threads": 1, "options": given}
    if python is not None:
        engine["python"] = python
    return inspect_target(HardwareProfile.from_dict({"name": "board", "device": "tensorrt-gpu", "engines": [engine]}))
