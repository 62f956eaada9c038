"""The lease on a host that several people reach: one job at a time, with its owner and how long it may take."""

import fcntl
import json
import os
import tempfile
import time
from typing import Any, Dict, Optional

from .errors import RefusedError

LEASE_FILE = "autocompress-host.lease"


def lease_path() -> str:
    """The lock file, in the folder for temporary files: all users of the host must find the same one."""
    return os.path.join(tempfile.gettempdir(), LEASE_FILE)


class Lease:
    """A kernel's lock on a file: it ends with the process that holds it, by a reboot too.

    Args:
        owner: who uses the host, one line for those who wait.
        seconds: how long at most; told to them, and kept by the supervisor, which ends its job by then.
    """

    def __init__(self, owner: str, seconds: float) -> None:
        self.owner = owner
        self.seconds = seconds
        self.handle = _open(lease_path())

    def take(self) -> bool:
        """Take the lease if nobody has it."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        now = time.time()
        text = json.dumps({"owner": self.owner, "since": round(now, 1), "until": round(now + self.seconds, 1)})
        try:
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, text.encode(), 0)
        except OSError:
            pass  # made by another user, who alone may write into it: the lock is what counts
        return True

    def holder(self) -> Dict[str, Any]:
        """Who has it: ``owner``, ``since`` and ``until`` by the host's clock; empty where unknown."""
        try:
            told = json.loads(os.pread(self.handle, 4096, 0).decode())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def give_back(self) -> None:
        """Let the next one have it."""
        fcntl.flock(self.handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has a copy of the handle
        os.close(self.handle)


def _open(path: str) -> int:
    # Without O_CREAT first: a kernel with fs.protected_regular refuses it for a file of another user in /tmp.
    flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    last: Optional[OSError] = None
    for mode in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR, os.O_RDONLY):
        try:
            handle = os.open(path, mode | flags, 0o666)
        except OSError as error:
            last = error
            continue
        if mode & os.O_CREAT:
            os.fchmod(handle, 0o666)  # whatever the umask: others lock it too
        return handle
    raise RefusedError("cannot open the lease %s: %s" % (path, last and last.strerror))
