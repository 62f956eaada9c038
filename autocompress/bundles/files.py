"""Files of a bundle: checksums, and opening only what the manifest vouches for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autocompress.bundles.manifest import FileEntry, Manifest
from autocompress.errors import BundleError
from autocompress.paths import inside

_CHUNK = 1 << 20


def describe_file(path: Path) -> FileEntry:
    """Checksum and size of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size)


def checked_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """Path of a file of the bundle, once it is known to be the one that was written.

    Raises:
        BundleError: the file is missing, a link, not listed in the manifest, or was changed.
    """
    path = folder / name
    if name not in manifest.files:
        raise BundleError(f"{path} is not listed in the bundle's manifest")
    if path.is_symlink():
        raise BundleError(f"{path} is a symbolic link; a bundle holds its files itself")
    inside(folder, name)
    try:
        found = describe_file(path)
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing; fetch the bundle again") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    expected = manifest.files[name]
    if found.size_bytes != expected.size_bytes:
        raise BundleError(
            f"{path} has {found.size_bytes} bytes instead of {expected.size_bytes}; fetch the bundle again"
        )
    if found.sha256 != expected.sha256:
        raise BundleError(f"{path} was changed after the bundle was made: its checksum does not match")
    return path


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Arrays of a safetensors file, which holds plain numbers and can run nothing.

    Raises:
        BundleError: the file is not valid safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, KeyError) as error:
        raise BundleError(f"cannot read {path} as safetensors: {error}") from error
