"""What a Jetson board tells of itself: software, power mode, clocks, swap, desktop, over-current alarms.

Nothing here needs root. Every path is looked up below ``root``, so that a test can build a board of files.
"""

import os
import re
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

from .reading import below, entries, find_program, meminfo, read_line, read_number, told_by

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where programs of the system are looked for that are not on PATH."""
TEGRASTATS_FOLDERS = ("/usr/bin", "/usr/sbin", "/home/nvidia", "/home/ubuntu")
"""Where JetPack puts tegrastats; its first versions put it into the home folder."""
JETPACK = {
    "36.5.2": "6.2.3",
    "36.5.0": "6.2.2",
    "36.4.7": "6.2.1",
    "36.4.4": "6.2.1",
    "36.4.3": "6.2",
    "36.4.0": "6.1",
    "36.3.0": "6.0",
    "36.2.0": "6.0 DP",
    "35.6.2": "5.1.5",
    "35.6.1": "5.1.5",
    "35.6.0": "5.1.4",
    "35.5.0": "5.1.3",
    "35.4.1": "5.1.2",
    "35.3.1": "5.1.1",
    "35.2.1": "5.1",
    "35.1.0": "5.0.2",
    "34.1.1": "5.0.1 DP",
    "34.1.0": "5.0 DP",
    "32.7.6": "4.6.6",
    "32.7.5": "4.6.5",
    "32.7.4": "4.6.4",
    "32.7.3": "4.6.3",
    "32.7.2": "4.6.2",
    "32.7.1": "4.6.1",
    "32.6.1": "4.6",
    "32.5.2": "4.5.1",
    "32.5.1": "4.5.1",
    "32.5.0": "4.5",
    "32.4.4": "4.4.1",
    "32.4.3": "4.4",
    "32.3.1": "4.3",
}
"""JetPack by the release of Jetson Linux (L4T), by NVIDIA's archive; what is not here is looked up in dpkg's list."""
_GPU_DEVICE = re.compile(r"\.(gpu|gp10b|gv11b|ga10b)$")
"""How the kernel calls the GPU of a Jetson: 57000000.gpu (Nano), 17000000.ga10b or 17000000.gpu (Orin), ..."""
_DESKTOPS = ("Xorg", "Xwayland", "gnome-shell", "compiz", "weston", "lxsession")

Alarms = Tuple[int, FrozenSet[str]]
"""Over-current alarms so far: what the counters of newer boards add up to, and the lines in the kernel's log."""


def is_board(root: str = "/") -> bool:
    """Whether this machine is a Jetson: it says so, or has its tools."""
    if read_line(below(root, "etc/nv_tegra_release")) is not None:
        return True
    return find_program("nvpmodel", *SYSTEM_FOLDERS) is not None or tegrastats_program() is not None


def tegrastats_program() -> Optional[str]:
    """The program that tells clocks, temperatures and power of a Jetson."""
    return find_program("tegrastats", *TEGRASTATS_FOLDERS)


def board_facts(root: str = "/") -> Optional[Dict[str, Any]]:
    """What a measurement on a Jetson depends on and what stays as it is for a while; None on any other machine.

    The keys are ``model``, ``l4t``, ``jetpack``, ``mode``, ``mode_id``, ``modes`` (numbers by names),
    ``clocks_locked``, ``gpu_max_clock_mhz``, ``swap_bytes``, ``swap_disk_bytes`` (without compressed memory) and
    ``desktop``; what cannot be known is None.
    """
    if not is_board(root):
        return None
    l4t = l4t_release(read_line(below(root, "etc/nv_tegra_release")) or "")
    mode, number = power_mode(root)
    gpu = gpu_clocks(root)
    swap = meminfo(root).get("SwapTotal")
    return {
        "model": read_line(below(root, "proc/device-tree/model")),
        "l4t": l4t,
        "jetpack": jetpack(l4t, root),
        "mode": mode,
        "mode_id": number,
        "modes": power_modes(root),
        "clocks_locked": clocks_locked(root),
        "gpu_max_clock_mhz": gpu.get("max_freq"),
        "swap_bytes": swap,
        "swap_disk_bytes": None if swap is None else _disk_swap(root),
        "desktop": desktop(root),
    }


def board_state(root: str, facts: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """Some `board_facts` with what is true of this moment: ``gpu_clock_mhz``, ``overcurrent`` (alarms so far), and
    ``tegrastats`` (its place)."""
    if facts is None:
        return None
    alarms = overcurrent(root)
    shown = _shown_locked(root)
    return dict(
        facts,
        clocks_locked=facts["clocks_locked"] if shown is None else shown,
        gpu_clock_mhz=gpu_clocks(root).get("cur_freq"),
        overcurrent=None if alarms is None else alarms[0] + len(alarms[1]),
        tegrastats=tegrastats_program(),
    )


def l4t_release(text: str) -> Optional[str]:
    """``36.4.3`` of ``# R36 (release), REVISION: 4.3, GCID: ...``; None where it says something else."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    if not found:
        return None
    revision = found.group(2).split(".")
    return ".".join([found.group(1), *(revision if len(revision) > 1 else [revision[0], "0"])])


def jetpack(l4t: Optional[str], root: str = "/") -> Optional[str]:
    """The version of JetPack that brought a release of Jetson Linux; None where nobody says."""
    if l4t in JETPACK:
        return JETPACK[l4t]
    try:
        # Read and not asked of dpkg: on a Nano its start takes longer than this whole look.
        with open(below(root, "var/lib/dpkg/status"), errors="replace") as stream:
            package = ""
            for line in stream:
                if line.startswith("Package: "):
                    package = line[9:].strip()
                elif package == "nvidia-jetpack" and line.startswith("Version: "):
                    return line[9:].strip()
    except OSError:
        pass
    return None


def nvpmodel_mode(text: str) -> Tuple[Optional[str], Optional[int]]:
    """Name and number of the power mode in what ``nvpmodel -q`` prints."""
    name = re.search(r"Power Mode:[ \t]*(\S+)", text)
    number = re.search(r"^[ \t]*(\d+)[ \t]*$", text[name.end() :] if name else "", re.MULTILINE)
    return name.group(1) if name else None, int(number.group(1)) if number else None


def power_mode(root: str = "/") -> Tuple[Optional[str], Optional[int]]:
    """Name and number of the power mode, by nvpmodel or by the file in which it keeps the mode."""
    program = find_program("nvpmodel", *SYSTEM_FOLDERS)
    name, number = nvpmodel_mode((program and told_by((program, "-q"))) or "")
    modes = power_modes(root)
    if name is None:
        kept = re.search(r"pmode:(\d+)", read_line(below(root, "var/lib/nvpmodel/status")) or "")
        number = int(kept.group(1)) if kept else None
        name = next((each for each in modes if modes[each] == number), None)
    return name, modes.get(name) if name is not None and number is None else number


def power_modes(root: str = "/") -> Dict[str, int]:
    """Numbers of the power modes by their names, as ``nvpmodel -m`` takes them; empty where they cannot be read."""
    text = read_line(below(root, "etc/nvpmodel.conf")) or ""
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text, re.MULTILINE)
    return {name: int(number) for number, name in found}


def clocks_locked(root: str = "/") -> Optional[bool]:
    """Whether processor and GPU are kept at the largest clocks of the power mode, as ``jetson_clocks`` does."""
    found: List[bool] = []
    folder = below(root, "sys/devices/system/cpu")
    for core in entries(folder):
        pair = [read_number(os.path.join(folder, core, "cpufreq", "scaling_%s_freq" % side)) for side in ("min", "max")]
        if re.match(r"cpu\d+$", core) and None not in pair:
            found.append(pair[0] == pair[1])
    gpu = gpu_clocks(root)
    if "min_freq" in gpu and "max_freq" in gpu:
        found.append(gpu["min_freq"] == gpu["max_freq"])
    return all(found) if found else None


def _shown_locked(root: str) -> Optional[bool]:
    """The same by ``jetson_clocks --show``: it knows the memory's clock too, but tells it to root alone."""
    program = find_program("jetson_clocks", *SYSTEM_FOLDERS)
    if program is None or root != "/":
        return None
    return locked_by_show(told_by((program, "--show")) or "")


def locked_by_show(text: str) -> Optional[bool]:
    """The same in what ``jetson_clocks --show`` prints to root; None where it prints something else."""
    locked: List[bool] = []
    for line in text.split("\n"):
        clocks = re.search(r"MinFreq=(\d+) MaxFreq=(\d+)", line)
        if clocks is None or "Online=0" in line:
            continue
        override = re.search(r"FreqOverride=(\d)", line)  # of the memory, whose limits stay apart
        locked.append(override.group(1) == "1" if override else clocks.group(1) == clocks.group(2))
    return all(locked) if locked else None


def gpu_folder(root: str = "/") -> Optional[str]:
    """Where the kernel tells the clocks of a Jetson's GPU."""
    for folder in (below(root, "sys/class/devfreq"), below(root, "sys/devices/gpu.0/devfreq")):
        for name in entries(folder):
            if _GPU_DEVICE.search(name):
                return os.path.join(folder, name)
    return None


def gpu_clocks(root: str = "/") -> Dict[str, float]:
    """``cur_freq``, ``min_freq`` and ``max_freq`` of the GPU in MHz, where they are told."""
    folder = gpu_folder(root)
    found: Dict[str, float] = {}
    for name in ("cur_freq", "min_freq", "max_freq"):
        hertz = None if folder is None else read_number(os.path.join(folder, name))
        if hertz is not None:
            found[name] = round(hertz / 1e6, 1)
    return found


def desktop(root: str = "/") -> Optional[bool]:
    """Whether a graphical desktop runs; None where the processes cannot be seen."""
    folder = below(root, "proc")
    numbers = [name for name in entries(folder) if name.isdigit()]
    if not numbers:
        return None
    return any(read_line(os.path.join(folder, number, "comm")) in _DESKTOPS for number in numbers)


def overcurrent(root: str = "/") -> Optional[Alarms]:
    """The over-current alarms since the board was started, as far as a user may see them; None where nothing tells.

    Newer boards count them (``oc*_event_cnt``); older ones write ``soctherm: OC ALARM`` into the kernel's log.
    """
    counted: List[int] = []
    folder = below(root, "sys/class/hwmon")
    for device in entries(folder):
        for name in entries(os.path.join(folder, device)):
            if re.match(r"oc\d+_event_cnt$", name):
                number = read_number(os.path.join(folder, device, name))
                if number is not None:
                    counted.append(number)
    if counted:
        return sum(counted), frozenset()
    program = find_program("dmesg", *SYSTEM_FOLDERS)
    log = None if program is None or root != "/" else told_by((program,))
    if log is None:
        return None
    return 0, frozenset(line for line in log.split("\n") if "soctherm: OC ALARM" in line)


def new_alarms(before: Optional[Alarms], after: Optional[Alarms]) -> int:
    """How many over-current alarms came between two looks; 0 where they cannot be seen."""
    if before is None or after is None:
        return 0
    return max(after[0] - before[0], 0) + len(after[1] - before[1])


def _disk_swap(root: str) -> int:
    """Bytes of swap that are not compressed memory (zram)."""
    total = 0
    for line in (read_line(below(root, "proc/swaps")) or "").split("\n")[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[2].isdigit() and "zram" not in fields[0]:
            total += int(fields[2]) * 1024
    return total
