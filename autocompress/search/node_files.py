"""Files of a task on a node of a cluster: what it reads is there, what it writes comes back.

A task's plain values name folders on the driver's machine. On a node that sees those very folders (the same machine,
or a shared disk) the task works in them, so that what it finished is never lost. On any other node what it reads is
brought there once, into a folder named after the content, and what it wrote goes back to the driver as the task's
answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.paths import cache_dir, inside, make_dir, write_bytes

INPUTS = ("name_or_path", "parent", "source")
"""Names of values that are folders to read, where they are the path of one: data, the parent network, a named one."""
WORKPLACES = ("folder",)
"""Names of values that are folders in which a task goes on with what is there: a trial's, a parent's."""
OUTPUTS = ("bundles",)
"""Names of values that are folders into which a task puts further folders."""
MARKS = ("result.json", "confirmed.json", "parent.json", "progress.json")
"""Files that say that others are complete, and are therefore written last."""

Entry = tuple[str, int, int]
"""Path within a folder, bytes, and time of the last change in nanoseconds."""
Way = tuple[str, ...]
"""Names that lead to a value within nested mappings."""


@dataclass(frozen=True)
class Folder:
    """A folder on the driver's machine that a task's values name.

    Attributes:
        way: where in the values it is named.
        path: of the folder.
        entries: its files, for inputs and for workplaces.
    """

    way: Way
    path: str
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Errand:
    """What a task needs to know of its files.

    Attributes:
        inputs, workplaces, outputs: the folders that its values name.
        marker: name of a hidden file that lies in each workplace and output of the driver's machine.
    """

    inputs: tuple[Folder, ...]
    workplaces: tuple[Folder, ...]
    outputs: tuple[Folder, ...]
    marker: str


@dataclass(frozen=True)
class Return:
    """What a task's node sends to the driver.

    Attributes:
        missing: it could not begin, because the node neither sees the driver's folders nor was sent the files.
        files: content of new and changed files by folder and path within it.
        removed: paths of files that are gone, by folder.
        error: None, or one line that says how the task failed.
    """

    missing: bool = False
    files: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    removed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    error: str | None = None


LEFT_SECONDS = 7 * 24 * 3600.0
PACK_BYTES = 32 * 2**20
"""Small files travel together: thousands of slices would be thousands of objects."""

Parcel = Mapping[str, tuple[str, Any, int, int]]
"""Content of a folder by path within it: SHA-256, what to fetch the pack by, and first byte and length in it."""


# -- on the driver's machine ------------------------------------------------------------------------------------------


def errand_of(values: Mapping[str, Any], marker: str) -> Errand:
    """Find the folders in a task's values, and mark those that the task writes to."""
    found: dict[str, list[Folder]] = {"inputs": [], "workplaces": [], "outputs": []}

    def look(part: Mapping[str, Any], way: Way) -> None:
        for name, value in part.items():
            if isinstance(value, Mapping):
                look(value, (*way, name))
            elif isinstance(value, str) and name in (*WORKPLACES, *OUTPUTS):
                folder = make_dir(Path(value))
                (folder / marker).touch()
                kind = "workplaces" if name in WORKPLACES else "outputs"
                found[kind].append(Folder((*way, name), value, entries_of(folder) if name in WORKPLACES else ()))
            elif isinstance(value, str) and name in INPUTS and Path(value).is_dir():
                found["inputs"].append(Folder((*way, name), value, entries_of(Path(value))))

    look(values, ())
    return Errand(tuple(found["inputs"]), tuple(found["workplaces"]), tuple(found["outputs"]), marker)


def entries_of(folder: Path) -> tuple[Entry, ...]:
    """The files of a folder in their order, hidden ones left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            status = path.stat()
            found.append((str(relative), status.st_size, status.st_mtime_ns))
    return tuple(found)


def pack(folder: Folder, put: Callable[[bytes], Any]) -> Parcel:
    """The content of a folder in packs, each handed to ``put``, which returns what to fetch it by."""
    parcel: dict[str, tuple[str, Any, int, int]] = {}
    waiting: list[tuple[str, bytes]] = []

    def send() -> None:
        reference = put(b"".join(content for _, content in waiting))
        first = 0
        for relative, content in waiting:
            parcel[relative] = (hashlib.sha256(content).hexdigest(), reference, first, len(content))
            first += len(content)
        waiting.clear()

    for relative, _, _ in folder.entries:
        waiting.append((relative, (Path(folder.path) / relative).read_bytes()))
        if sum(len(content) for _, content in waiting) >= PACK_BYTES:
            send()
    if waiting:
        send()
    return parcel


def unpack(errand: Errand, back: Return) -> None:
    """Write what a node sent into the driver's folders; the files that say that all is there come last.

    What a task that failed put into its outputs is left out: a half of a bundle must not replace a whole one.

    Raises:
        OSError: a folder cannot be written to.
        UserError: a path leaves its folder.
    """
    for folder in errand.outputs if back.error is None else ():
        _replace_folders(Path(folder.path), back.files.get(folder.path, {}))
    for folder in errand.workplaces:
        root = Path(folder.path)
        files = back.files.get(folder.path, {})
        for relative in sorted(files, key=lambda each: (each in MARKS, each)):
            path = inside(root, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, files[relative])
        for relative in back.removed.get(folder.path, ()):
            inside(root, relative).unlink(missing_ok=True)


def _replace_folders(root: Path, files: Mapping[str, bytes]) -> None:
    """Put new folders in the place of old ones of the same names."""
    names = {Path(relative).parts[0] for relative in files}
    for name in sorted(names):
        work = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}."))
        try:
            for relative, content in files.items():
                if Path(relative).parts[0] == name:
                    path = inside(work, relative)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            target = inside(root, name)
            shutil.rmtree(target, ignore_errors=True)
            (work / name).rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


# -- on the node ------------------------------------------------------------------------------------------------------


def run_with_files(
    function: Callable[[Mapping[str, Any]], None],
    values: Mapping[str, Any],
    errand: Errand,
    parcels: Mapping[str, Parcel] | None,
    fetch: Callable[[Any], bytes],
) -> Return:
    """Run a task in the driver's own folders where this node sees them, and in folders of this node where not.

    Args:
        function, values: the task.
        errand: its folders.
        parcels: content of the inputs and workplaces; None where the driver did not send any yet.
        fetch: gets the content of a file.
    """
    shared = all((Path(each.path) / errand.marker).exists() for each in (*errand.workplaces, *errand.outputs))
    strange = [each for each in errand.inputs if entries_of(Path(each.path)) != each.entries]
    if parcels is None and (strange or not shared):
        return Return(missing=True)
    places = {each.way: str(_kept(parcels[each.path], fetch)) for each in strange} if parcels is not None else {}
    if shared:
        return Return(error=_error_of(function, _with(values, places)))
    work = Path(tempfile.mkdtemp(dir=_swept(make_dir(cache_dir() / "node-work"))))
    try:
        local: dict[str, Path] = {}
        before: dict[str, tuple[Entry, ...]] = {}
        for number, each in enumerate((*errand.workplaces, *errand.outputs)):
            # The last name stays: a trial's folder is called by its number.
            local[each.path] = folder = make_dir(work / str(number) / Path(each.path).name)
            _write(folder, (parcels or {}).get(each.path, {}), fetch)
            before[each.path] = entries_of(folder)
            places[each.way] = str(folder)
        error = _error_of(function, _with(values, places))
        files, removed = {}, {}
        for path, folder in local.items():
            after = entries_of(folder)
            names = {name for name, _, _ in after}
            files[path] = {entry[0]: (folder / entry[0]).read_bytes() for entry in after if entry not in before[path]}
            removed[path] = [name for name, _, _ in before[path] if name not in names]
        return Return(files=files, removed=removed, error=error)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swept(root: Path) -> Path:
    """The folder without what tasks left behind that were killed long ago."""
    for path in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
    return root


def error_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _error_of(function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> str | None:
    try:
        function(values)
    except Exception as error:
        return error_line(error)
    return None


def _with(values: Mapping[str, Any], places: Mapping[Way, str]) -> dict[str, Any]:
    """The values with other paths in some places."""
    changed = {
        name: _with(value, {way[1:]: path for way, path in places.items() if way[0] == name})
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
    return changed | {way[0]: path for way, path in places.items() if len(way) == 1}


def _kept(parcel: Parcel, fetch: Callable[[Any], bytes]) -> Path:
    """The folder of this node with that content; brought here by the first task that asks, and waited for by others."""
    content = json.dumps(sorted((name, digest) for name, (digest, *_) in parcel.items()))
    name = hashlib.sha256(content.encode()).hexdigest()[:20]
    root = make_dir(cache_dir() / "node-files")
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / name).is_dir():
            work = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}."))
            try:
                _write(work, parcel, fetch)
                work.rename(root / name)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
    return root / name


def _write(folder: Path, parcel: Parcel, fetch: Callable[[Any], bytes]) -> None:
    held: tuple[Any, bytes] | None = None
    for relative, (digest, reference, first, length) in parcel.items():
        if held is None or held[0] != reference:
            held = None  # the pack before may go before the next one comes
            held = (reference, fetch(reference))
        content = held[1][first : first + length]
        if hashlib.sha256(content).hexdigest() != digest:
            raise OSError(f"{relative} did not arrive as it was sent")
        path = inside(folder, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))  # so that what the task writes anew is seen as changed
