"""A limit of memory around what runs on a board, so that the kernel kills there as it does on a small one."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


class NoLimitError(Exception):
    """Memory cannot be limited here; the text says why."""


@contextmanager
def limited_memory(size: int) -> Iterator[Path]:
    """A group of processes that together may take ``size`` bytes; write a process's number into its ``cgroup.procs``.

    Raises:
        NoLimitError: not root, or in a container without the controller.
    """
    if os.geteuid() != 0:
        raise NoLimitError("only root can limit memory")
    old = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if old else CGROUPS) / f"autocompress-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoLimitError(f"no group of processes can be made here: {error}") from error
    try:
        try:
            (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(size))
            with suppress(OSError):  # a kernel without swap accounting
                (folder / ("memory.memsw.limit_in_bytes" if old else "memory.swap.max")).write_text(
                    str(size) if old else "0"
                )
        except OSError as error:
            raise NoLimitError(f"memory cannot be limited here: {error}") from error
        yield folder
    finally:
        # Busy until the last process is gone.
        for _ in range(100):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)
