"""The Synapse layout that TransUNet introduced: training slices as npz, test volumes as HDF5, lists of names."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.data import checks
from autocompress.data.layout import Case, Layout, Part, digest_of, leaks, patient_of
from autocompress.errors import DataError

SYNAPSE_CLASSES = (
    "background",
    "aorta",
    "gallbladder",
    "left kidney",
    "right kidney",
    "liver",
    "pancreas",
    "spleen",
    "stomach",
)
LIST_FOLDERS = ("lists/lists_Synapse", "lists_Synapse", "lists")
_SLICE = re.compile(r"^(?P<case>.+)_slice(?P<index>\d+)$")
_SYNAPSE_CASE = re.compile(r"^case\d{4}$")


def is_synapse(root: Path) -> bool:
    """Whether a folder is meant to be in this layout."""
    return (root / "train_npz").is_dir() or (root / "test_vol_h5").is_dir()


def read_layout(root: Path) -> Layout:
    """Read lists and file names; no array is opened, and problems are collected and not raised.

    Raises:
        DataError: the lists cannot be found or read at all.
    """
    folder = _list_folder(root)
    problems: list[str] = []
    names = {
        "train": _read_list(folder / "train.txt", problems),
        "test": _read_list(folder / "test_vol.txt", problems),
    }
    train = _train_cases(root / "train_npz", names["train"], folder / "train.txt", problems)
    test = _test_cases(root / "test_vol_h5", names["test"], folder / "test_vol.txt", problems)
    problems += leaks(train, test)
    customary = all(_SYNAPSE_CASE.match(case.name) for case in train)
    return Layout(
        kind="synapse",
        root=root,
        train=train,
        test=test,
        problems=tuple(problems),
        read=read_part,
        class_names=SYNAPSE_CLASSES if customary else (),
        digest=digest_of(["synapse", *names["train"], "", *names["test"]], train, test, root),
    )


def read_part(files: tuple[Path, ...]) -> Part:
    """Read a training slice (``.npz``) or a test volume (``.npy.h5``).

    Both hold ``image`` and ``label``, and may hold ``spacing``: three numbers in mm along slice, row and column.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    (path,) = files
    values = read_npz(path) if path.suffix == ".npz" else read_h5(path)
    for key in ("image", "label"):
        if key not in values:
            raise DataError(f"{path}: no array {key!r}; found {', '.join(sorted(values)) or 'none'}")
    image, label = checks.image_and_label(values["image"], values["label"], str(path))
    return Part(image, label, _spacing(values.get("spacing"), path))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays ``image``, ``label`` and ``spacing``, as far as present.

    Raises:
        DataError: missing, damaged, or pickled objects.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise DataError(f"{path}: damaged npz file (not an npz archive)")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                return {key: archive[key] for key in ("image", "label", "spacing") if key in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"file not found: {path}") from error
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: holds pickled objects, which are not read; store plain arrays") from error
        raise DataError(f"{path}: damaged npz file ({_one_line(error)})") from error
    except MemoryError as error:
        raise DataError(f"{path}: its arrays do not fit into memory, or it is damaged") from error


def read_h5(path: Path) -> dict[str, NDArray[Any]]:
    """Read the data sets ``image``, ``label`` and ``spacing``, as far as present.

    Raises:
        DataError: missing or damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return {
                key: np.asarray(file[key][()])
                for key in ("image", "label", "spacing")
                if isinstance(file.get(key), h5py.Dataset)
            }
    except FileNotFoundError as error:
        raise DataError(f"file not found: {path}") from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise DataError(f"{path}: damaged HDF5 file ({_one_line(error)})") from error


def _list_folder(root: Path) -> Path:
    for name in LIST_FOLDERS:
        if (root / name / "train.txt").is_file():
            return root / name
    raise DataError(
        f"{root}: no train.txt in {' or '.join(LIST_FOLDERS)}; the Synapse layout needs the lists train.txt and "
        "test_vol.txt beside train_npz/ and test_vol_h5/"
    )


def _read_list(path: Path, problems: list[str]) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        problems.append(f"list not found: {path}")
        return []
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not a readable list of names ({_one_line(error)})")
        return []
    names: list[str] = []
    seen: set[str] = set()
    for line in lines:
        name = line.strip().removesuffix(".h5").removesuffix(".npy").removesuffix(".npz")
        if not name:
            continue
        if "/" in name or "\\" in name or "\0" in name or name.startswith("."):
            problems.append(f"{path}: the name {name!r} leaves its folder; names are plain, such as case0005_slice000")
        elif name in seen:
            problems.append(f"{path}: the name {name!r} is listed twice")
        else:
            seen.add(name)
            names.append(name)
    if not names:
        problems.append(f"{path}: the list is empty")
    return names


def _train_cases(folder: Path, names: Sequence[str], source: Path, problems: list[str]) -> tuple[Case, ...]:
    present = _present(folder)
    cases: dict[str, list[tuple[int, Path]]] = {}
    for name in names:
        match = _SLICE.match(name)
        if match is None:
            problems.append(f"{source}: the name {name!r} is not of the form caseXXXX_sliceYYY")
        elif f"{name}.npz" not in present:
            problems.append(f"{source}: the listed slice {folder / name}.npz is missing")
        else:
            cases.setdefault(match["case"], []).append((int(match["index"]), folder / f"{name}.npz"))
    return tuple(
        Case(case, patient_of(case), tuple((path,) for _, path in sorted(slices))) for case, slices in cases.items()
    )


def _test_cases(folder: Path, names: Sequence[str], source: Path, problems: list[str]) -> tuple[Case, ...]:
    present = _present(folder)
    cases: list[Case] = []
    for name in names:
        file = next((f"{name}{ending}" for ending in (".npy.h5", ".h5") if f"{name}{ending}" in present), None)
        if file is None:
            problems.append(f"{source}: the listed volume {folder / name}.npy.h5 is missing")
        else:
            cases.append(Case(name, patient_of(name), ((folder / file,),)))
    return tuple(cases)


def _present(folder: Path) -> set[str]:
    # One look into the folder is faster than one per name.
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _spacing(raw: NDArray[Any] | None, path: Path) -> tuple[float, float, float]:
    if raw is None:
        return (1.0, 1.0, 1.0)
    usable = raw.shape == (3,) and np.issubdtype(raw.dtype, np.number) and np.isrealobj(raw)
    if not usable or not (np.isfinite(raw) & (raw > 0)).all():
        raise DataError(f"{path}: spacing must be three positive numbers in mm (slice, row, column)")
    return (float(raw[0]), float(raw[1]), float(raw[2]))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
