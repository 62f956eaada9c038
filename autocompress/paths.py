"""Where files live: caches, the user's configuration, and writes that are never seen half done."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from autocompress.errors import UserError


def cache_dir() -> Path:
    """Folder of data that can be made again; ``AUTOCOMPRESS_CACHE`` overrides the platform's choice."""
    override = os.environ.get("AUTOCOMPRESS_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("autocompress"))


def user_config_dir() -> Path:
    """Folder of the user's own YAML library; ``AUTOCOMPRESS_CONFIG`` overrides the platform's choice."""
    override = os.environ.get("AUTOCOMPRESS_CONFIG")
    return Path(override) if override else Path(platformdirs.user_config_dir("autocompress"))


def make_dir(path: Path) -> Path:
    """Create a folder with its parents and return it.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create folder {path}: {error.strerror}; choose another with --out") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into folder {path}: permission denied; choose another with --out")
    return path


def inside(root: Path, relative: str) -> Path:
    """Resolve a path that was read from a file, and refuse one that leaves ``root``.

    Raises:
        UserError: the path is absolute or points outside ``root``.
    """
    candidate = (root / relative).resolve()
    if not candidate.is_relative_to(root.resolve()):
        raise UserError(f"path {relative!r} in {root} leaves its folder; it must be relative and stay inside")
    return candidate


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: readers see the old content or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON in one step (see `write_bytes`); NaN and infinities are refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"file not found: {path}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} as JSON: {error}") from error
