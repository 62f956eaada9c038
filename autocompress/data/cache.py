"""Files that can be made again, shared by several processes: made once, never seen half done."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from autocompress import paths
from autocompress.errors import DataError, UserError


def cache_folder(*parts: str) -> Path:
    """Folder inside the cache, made where missing.

    Raises:
        DataError: it cannot be made or written.
    """
    folder = paths.cache_dir().joinpath(*parts)
    try:
        return paths.make_dir(folder)
    except UserError as error:
        raise DataError(f"cannot write into the cache folder {folder}; set AUTOCOMPRESS_CACHE to another") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file among processes; the kernel frees it when its holder dies, however that happens."""
    try:
        stream = path.open("w")
    except OSError as error:
        raise cache_error(path, error) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name only when complete and on disk.

    Plain writes and no memory map: on a full disk a write raises, where a map would kill the process.

    Raises:
        DataError: the disk is full or not writable.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise cache_error(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cache_error(path, error) from error
        raise


def cache_error(path: Path, error: OSError) -> DataError:
    """One line for a cache that cannot be written."""
    text = " ".join(str(error.strerror or error).split())
    if error.errno == errno.ENOSPC or "No space left" in text:  # HDF5 gives the text without the number
        return DataError(f"the disk is full, cannot write {path}; free some space or set AUTOCOMPRESS_CACHE")
    return DataError(f"cannot write {path}: {text}; set AUTOCOMPRESS_CACHE to another folder")
