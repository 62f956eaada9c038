"""Places for training on this machine: while one trial waits for a board that measures, another one trains."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autocompress.paths import make_dir

TICK_SECONDS = 0.2


@contextmanager
def training_place(folder: Path, count: int) -> Iterator[None]:
    """Hold one of ``count`` places inside the block; the others wait.

    The places are locks of the kernel, so a worker that dies holds none.

    Args:
        folder: of the lock files, on this machine; made where it is missing.
        count: at least 1.
    """
    make_dir(folder)
    handles = [
        os.open(folder / f"place-{index}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for index in range(count)
    ]
    try:
        while True:
            for handle in handles:
                with suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield
                    return
            time.sleep(TICK_SECONDS)
    finally:
        for handle in handles:
            # Unlocked explicitly: a child forked meanwhile has a copy of the handle, and closing ours would not unlock.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
