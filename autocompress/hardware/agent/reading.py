"""What the kernel's files and small programs of the system say; None where they say nothing."""

import os
import shutil
import subprocess
from typing import Dict, List, Optional, Tuple


def read_line(path: str) -> Optional[str]:
    """The text of a small file without what stands around it; None where it cannot be read."""
    try:
        with open(path, errors="replace") as stream:
            return stream.read().strip("\0\n ")
    except OSError:
        return None


def read_number(path: str) -> Optional[int]:
    """The whole number in a file; None where there is none."""
    text = read_line(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def entries(folder: str) -> List[str]:
    """Sorted names in a folder; empty where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def below(root: str, *parts: str) -> str:
    """A path of the system below ``root``, which is ``/`` on a real one."""
    return os.path.join(root, *parts)


def meminfo(root: str = "/") -> Dict[str, int]:
    """Bytes of each line of /proc/meminfo; empty where it cannot be read."""
    found: Dict[str, int] = {}
    for line in (read_line(below(root, "proc/meminfo")) or "").split("\n"):
        name, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            found[name] = int(number[0]) * (1024 if number[-1] == "kB" else 1)
    return found


def find_program(name: str, *folders: str) -> Optional[str]:
    """A program on PATH, or in one of some folders: a login over SSH may have fewer of them on its PATH."""
    found = shutil.which(name)
    if found is not None:
        return found
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def told_by(command: Tuple[str, ...], seconds: float = 10.0) -> Optional[str]:
    """What a program prints to its standard output; None where it cannot be run, fails, or takes longer."""
    try:
        # Pipes and no more: `capture_output` is newer than Python 3.6.
        said = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.decode(errors="replace")
