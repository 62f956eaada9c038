"""Files in one step, the environment of engines, and processes that do not outlive their parent."""

import json
import os
import platform
import signal
import sys
from typing import Any, Dict, List, Optional


def write_json(path: str, answer: Dict[str, Any]) -> None:
    temporary = path + ".part"
    with open(temporary, "w") as stream:
        json.dump(answer, stream, allow_nan=False)
    os.replace(temporary, path)


def engine_environment(request: Dict[str, Any]) -> Dict[str, str]:
    """Ours, with the thread counts of the libraries below the engine; Ray sets them to 1 in its workers."""
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", NM_DISABLE_ANALYTICS="1")  # DeepSparse reports its use
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(request.get("threads") or 1)
    if platform.machine() == "aarch64":
        # NumPy 1.19.5 dies of an illegal instruction on a Jetson Nano's Cortex-A57 if it chooses by itself.
        environment.setdefault("OPENBLAS_CORETYPE", "ARMV8")
    return environment


def die_with(parent: Optional[int]) -> None:
    """Ask the kernel to end this process with its parent: nothing is left running after a kill -9 (Linux)."""
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def session_of(leader: int) -> List[int]:
    """The processes of a session, by its leader's number."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            # The name of a program may hold anything, also brackets; what is wanted stands behind the last one.
            fields = _kernel_text("/proc/%s/stat" % name).rpartition(")")[2].split()
            if len(fields) > 3 and int(fields[3]) == leader:
                found.append(int(name))
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 where the kernel does not tell."""
    fields = _kernel_text("/proc/%d/statm" % pid).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def _kernel_text(path: str) -> str:
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
