"""Folders of NIfTI volumes as the Medical Segmentation Decathlon and nnU-Net lay them out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.data import checks, names
from autocompress.data.inputs import NIFTI_ENDINGS, read_nifti, scale_intensities
from autocompress.data.layout import Case, Layout, Part, digest_of, hold_out, leaks, patient_of
from autocompress.errors import DataError

TEST_FRACTION = 0.2
_CHANNEL = re.compile(r"_(\d{4})$")
_MAX_FILE = 1 << 24


def is_nifti(root: Path) -> bool:
    """Whether a folder is meant to be in this layout."""
    return (root / "imagesTr").is_dir() or (root / "labelsTr").is_dir()


def read_layout(root: Path) -> Layout:
    """List the cases of ``imagesTr``/``labelsTr`` and, where there are labels, ``imagesTs``/``labelsTs``.

    Without ``labelsTs``, a fifth of the labelled patients becomes the test split, always the same ones.
    """
    problems: list[str] = []
    train = _cases(root / "imagesTr", root / "labelsTr", problems)
    test: tuple[Case, ...] = ()
    if (root / "labelsTs").is_dir():
        test = _cases(root / "imagesTs", root / "labelsTs", problems)
    elif len({case.patient for case in train}) >= 3:
        train, test = hold_out(train, TEST_FRACTION, "test")
    problems += leaks(train, test)
    if not train:
        problems.append(f"{root}: no case with an image in imagesTr/ and a label of the same name in labelsTr/")
    elif not test:
        problems.append(f"{root}: too few cases, at least three are needed for training, validation and test")
    class_names = _class_names(root / "dataset.json", problems)
    return Layout(
        kind="nifti",
        root=root,
        train=train,
        test=test,
        problems=tuple(problems),
        read=read_part,
        class_names=class_names,
        digest=digest_of(["nifti", *class_names], train, test, root),
    )


def read_part(files: tuple[Path, ...]) -> Part:
    """Read one case: its channels' files, and last its label's.

    Raises:
        DataError: damaged, or image and label do not lie on the same grid.
    """
    *channels, labelled = files
    label, label_grid, _ = read_nifti(labelled)
    stacks = []
    spacing = (1.0, 1.0, 1.0)
    for path in channels:
        raw, grid, spacing = read_nifti(path)
        if grid.axes != label_grid.axes:
            raise DataError(f"{labelled}: its axes lie otherwise than those of {path}")
        scaled, _ = scale_intensities(raw, str(path))
        stacks.append(checks.channels_first(scaled, label.shape, str(labelled)))
    image = np.ascontiguousarray(np.concatenate(stacks, axis=1))
    return Part(image, np.ascontiguousarray(checks.class_indices(label, str(labelled))), spacing)


def _cases(images: Path, labels: Path, problems: list[str]) -> tuple[Case, ...]:
    channels: dict[str, list[Path]] = {}
    labelled = _files(labels)
    for stem, path in sorted(_files(images).items()):
        match = _CHANNEL.search(stem)
        # nnU-Net numbers the channels (case_0000), the Decathlon keeps them in one file that is called as its label.
        name = stem if stem in labelled or match is None else stem[: match.start()]
        channels.setdefault(name, []).append(path)
    for name in sorted(set(channels) - set(labelled)):
        problems.append(f"{channels[name][0]}: no label {labels / name}.nii.gz")
    for name in sorted(set(labelled) - set(channels)):
        problems.append(f"{labelled[name]}: no image of this name in {images}")
    return tuple(
        Case(name, patient_of(name), ((*files, labelled[name]),))
        for name, files in sorted(channels.items())
        if name in labelled
    )


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in NIFTI_ENDINGS if path.name.endswith(ending)), None)
        if ending and not path.name.startswith("."):
            found[path.name.removesuffix(ending)] = path
    return found


def _class_names(path: Path, problems: list[str]) -> tuple[str, ...]:
    """From ``dataset.json``: {"0": "background", ...} of the Decathlon or {"background": 0, ...} of nnU-Net."""
    if not path.is_file():
        return ()
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ValueError("too large")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        labels = content["labels"]
        numbered = {int(key): value for key, value in labels.items()} if "0" in labels else {}
        numbered = numbered or {int(value): key for key, value in labels.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError("class indices with gaps")
        return names.normalise([numbered[index] for index in range(len(numbered))], str(path))
    except DataError as error:
        problems.append(str(error))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{path}: no usable 'labels' ({type(error).__name__}: {' '.join(str(error).split())[:100]})")
    return ()
