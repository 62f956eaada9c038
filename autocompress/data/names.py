"""Names of the classes: given, read from the data set's folder, customary, or numbered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autocompress.data.checks import MAX_CLASSES
from autocompress.errors import DataError

_MAX_FILE = 1 << 16


def normalise(names: Sequence[Any], where: str) -> tuple[str, ...]:
    """Check names and put ``background`` first where it is not.

    Raises:
        DataError: not texts, empty, repeated, or too many.
    """
    if isinstance(names, (str, bytes)) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{where}: class names must be a list of texts, none of them empty")
    clean = tuple(" ".join(name.split()) for name in names)
    if not clean or clean[0].lower() != "background":
        clean = ("background", *clean)
    if len(clean) < 2 or len(clean) > MAX_CLASSES:
        raise DataError(f"{where}: {len(clean)} classes with the background, expected 2 to {MAX_CLASSES}")
    if len(set(clean)) != len(clean):
        repeated = next(name for name in clean if clean.count(name) > 1)
        raise DataError(f"{where}: the class name {repeated!r} is there twice")
    return clean


def from_folder(root: Path) -> tuple[str, ...]:
    """Names from ``dataset.yaml`` (key ``class_names``) or ``classes.txt`` (one a line); empty where neither is there.

    Raises:
        DataError: a file is there and wrong.
    """
    path = root / "dataset.yaml"
    if path.is_file():
        names = _read_yaml(path).get("class_names")
        return () if names is None else normalise(names if isinstance(names, list) else [None], str(path))
    path = root / "classes.txt"
    if path.is_file():
        lines = [line for line in _read_text(path).splitlines() if line.strip()]
        return normalise(lines, str(path))
    return ()


def numbered(count: int) -> tuple[str, ...]:
    """``background``, ``class 1``, ``class 2``, ..."""
    return ("background", *(f"class {index}" for index in range(1, count)))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())[:160]})") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or (unknown := sorted(set(map(str, value)) - {"class_names", "description"})):
        found = unknown[0] if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{path}: unexpected {found!r}; allowed are class_names (a list) and description")
    return value


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise DataError(f"{path}: larger than {_MAX_FILE} bytes, not a list of class names")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
