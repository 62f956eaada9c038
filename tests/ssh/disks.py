"""A disk of a certain size, to be full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoDiskError(Exception):
    """No disk can be mounted here; the text says why."""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount an empty disk of ``size`` bytes in main memory at ``folder``, which is made where it is not there.

    Raises:
        NoDiskError: not root, or in a container that may not mount.
    """
    if os.geteuid() != 0:
        raise NoDiskError("only root can mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "autocompress-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoDiskError(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: what still runs on the board may have a file open there.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Write a file that takes all space of that disk but ``leave`` bytes; delete it and there is room again."""
    left = os.statvfs(folder)
    path = folder / "filler"
    with path.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(left.f_bavail * left.f_frsize - leave, 1))
    return path
