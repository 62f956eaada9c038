"""Files in one step, and processes that do not outlive their parent."""

import json
import os
import signal
import sys
from typing import Any, Dict, Optional


def write_json(path: str, answer: Dict[str, Any]) -> None:
    temporary = path + ".part"
    with open(temporary, "w") as stream:
        json.dump(answer, stream, allow_nan=False)
    os.replace(temporary, path)


def die_with(parent: Optional[int]) -> None:
    """Ask the kernel to end this process with its parent: nothing is left running after a kill -9 (Linux)."""
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
