"""The library of YAML: where a name on the command line is looked up, and what there is.

A name is looked up in this order: a path; the working directory's folder of that kind; the user's configuration
folder; the built-in ones. A new device, space or study is therefore a new YAML file and no line of code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from autocompress.errors import SpecError
from autocompress.paths import user_config_dir
from autocompress.specs.problems import nearest
from autocompress.specs.schemas import HardwareProfile, Objective, SearchSpace, Spec, StudySpec
from autocompress.specs.yaml_files import read_yaml

Kind = Literal["space", "objective", "target", "study"]
Origin = Literal["path", "working directory", "user", "built-in"]
AnySpec = SearchSpace | Objective | HardwareProfile | StudySpec

FOLDERS: Mapping[Kind, str] = {
    "space": "search_spaces",
    "objective": "objectives",
    "target": "hw_profiles",
    "study": "studies",
}
SCHEMAS: Mapping[Kind, type[AnySpec]] = {
    "space": SearchSpace,
    "objective": Objective,
    "target": HardwareProfile,
    "study": StudySpec,
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class SpecEntry:
    """One file of the library.

    Attributes:
        kind, name: as the command line takes them.
        path: the YAML file.
        origin: which of the places it is in.
        description: one sentence; empty where the file is wrong.
        shadows: origins further down that have a file of the same name, which is not used.
        problem: what is wrong with the file, as one line; empty where it is right.
    """

    kind: Kind
    name: str
    path: Path
    origin: Origin
    description: str = ""
    shadows: tuple[Origin, ...] = ()
    problem: str = ""


def built_in_root() -> Path:
    """Folder that holds the built-in ``search_spaces/``, ``objectives/``, ``hw_profiles/`` and ``studies/``.

    Raises:
        SpecError: the installation lacks them.
    """
    package = Path(__file__).resolve().parent.parent
    # A wheel carries them inside the package; in a checkout they lie beside it, where people edit them.
    for root in (package / "library", package.parent):
        if all((root / folder).is_dir() for folder in FOLDERS.values()):
            return root
    raise SpecError(f"the installation in {package} lacks its built-in YAML files; install autocompress again")


def find_spec(kind: Kind, name_or_path: str) -> SpecEntry:
    """Where a name leads to, without reading the file.

    Raises:
        SpecError: nothing has that name (the nearest known names are in the text), or the path does not exist.
    """
    if _is_path(name_or_path):
        return _at_path(kind, name_or_path)
    found = [entry for entry in _files(kind) if entry.name == name_or_path]
    if found:
        return _merged(found)
    known = sorted({entry.name for entry in _files(kind)})
    similar = nearest(name_or_path, known)
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    raise SpecError(
        f"unknown {kind} {name_or_path!r}; {hint}known are {', '.join(known) or 'none'} "
        f"(a path ends in .yaml or has a slash)"
    )


@overload
def load_spec(kind: Literal["space"], name_or_path: str) -> SearchSpace: ...
@overload
def load_spec(kind: Literal["objective"], name_or_path: str) -> Objective: ...
@overload
def load_spec(kind: Literal["target"], name_or_path: str) -> HardwareProfile: ...
@overload
def load_spec(kind: Literal["study"], name_or_path: str) -> StudySpec: ...
@overload
def load_spec(kind: Kind, name_or_path: str) -> AnySpec: ...
def load_spec(kind: Kind, name_or_path: str) -> AnySpec:
    """Find, read and check one specification.

    Args:
        kind: ``space``, ``objective``, ``target`` or ``study``.
        name_or_path: a name of the library, or a path (with a slash, or ending in ``.yaml`` or ``.yml``).

    Raises:
        SpecError: not found, not YAML, or a field is wrong; one line with file, field, value and what is allowed.
    """
    return _load(find_spec(kind, name_or_path))


def load_study(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """A study with its space and objective in place of their names, and fields changed as asked.

    Args:
        name_or_path: as in `load_spec`.
        overrides: dotted field paths and values, as in `StudySpec.with_overrides`. ``space`` and ``objective``
            may be given as other names; their fields are changed after they have been loaded.

    Raises:
        SpecError: as `load_spec`, also for the space and the objective.
    """
    changes = dict(overrides or {})
    study = load_spec("study", name_or_path)
    # Only what names a file is replaced first: "objective.constraints.min_dice" changes the objective that was loaded.
    names: dict[str, Any] = {key: changes.pop(key) for key in ("space", "objective") if key in changes}
    if names:
        study = study.with_overrides(names)
    space = load_spec("space", study.space) if isinstance(study.space, str) else study.space
    goal = load_spec("objective", study.objective) if isinstance(study.objective, str) else study.objective
    resolved = study.model_copy(update={"space": space, "objective": goal})
    return resolved.with_overrides(changes) if changes else resolved


def list_specs(kind: Kind) -> list[SpecEntry]:
    """All specifications of a kind that can be used by name here, sorted by name.

    A file that is wrong is listed with its problem: one bad file must not hide the others.
    """
    by_name: dict[str, list[SpecEntry]] = {}
    for entry in _files(kind):
        by_name.setdefault(entry.name, []).append(entry)
    return [_described(_merged(by_name[name])) for name in sorted(by_name)]


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")) or not _NAME.fullmatch(name_or_path)


def _at_path(kind: Kind, text: str) -> SpecEntry:
    try:
        path = Path(text).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a null byte
        raise SpecError(f"{kind} {text[:60]!r}: no such file") from error
    if is_folder:
        raise SpecError(f"{kind} {text!r} is a folder; give a YAML file or a name")
    if not is_file:
        raise SpecError(f"{kind} {text!r}: no such file")
    return SpecEntry(kind, path.stem, path, "path")


def _files(kind: Kind) -> Iterator[SpecEntry]:
    """Files of a kind, those that win first; a folder that is two places at once counts as the later one."""
    folder = FOLDERS[kind]
    places: list[tuple[Origin, Path]] = [
        ("working directory", Path.cwd() / folder),
        ("user", user_config_dir() / folder),
        ("built-in", built_in_root() / folder),
    ]
    for position, (origin, place) in enumerate(places):
        if not place.is_dir() or any(other.is_dir() and other.samefile(place) for _, other in places[position + 1 :]):
            continue
        for path in sorted(place.iterdir()):
            if path.suffix in (".yaml", ".yml") and _NAME.fullmatch(path.stem) and path.is_file():
                yield SpecEntry(kind, path.stem, path, origin)


def _merged(entries: list[SpecEntry]) -> SpecEntry:
    first, *others = entries
    return SpecEntry(first.kind, first.name, first.path, first.origin, shadows=tuple(entry.origin for entry in others))


def _described(entry: SpecEntry) -> SpecEntry:
    try:
        spec: Spec | None = _load(entry)
        problem = ""
    except SpecError as error:
        spec, problem = None, str(error)
    description = spec.description if isinstance(spec, (SearchSpace, Objective, HardwareProfile, StudySpec)) else ""
    return SpecEntry(entry.kind, entry.name, entry.path, entry.origin, description, entry.shadows, problem)


def _load(entry: SpecEntry) -> AnySpec:
    values = read_yaml(Path(_shown(entry.path)))
    name = values.get("name", entry.name)
    if name != entry.name:
        raise SpecError(
            f"{_shown(entry.path)}: field name: {name!r} must be {entry.name!r}, as the file is called (or left out)"
        )
    return SCHEMAS[entry.kind].from_dict({"name": name, **values}, _shown(entry.path))


def _shown(path: Path) -> str:
    """A path as short as the reader can still follow it."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)
