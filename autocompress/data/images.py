"""Folders of pictures with label pictures of the same names, such as aerial images; every picture is a case."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autocompress.data import checks
from autocompress.data.dataset import LabelArray
from autocompress.data.inputs import IMAGE_ENDINGS, read_picture
from autocompress.data.layout import Case, Layout, Part, digest_of, hold_out, leaks
from autocompress.errors import DataError

IMAGE_FOLDERS = ("images", "IMG", "imgs")
LABEL_FOLDERS = ("labels", "masks", "GT", "annotations")
TEST_FOLDERS = ("test", "val", "validation")
TEST_FRACTION = 0.2


def is_images(root: Path) -> bool:
    """Whether a folder is meant to be in this layout."""
    return _pair(root) is not None or _pair(root / "train") is not None


def read_layout(root: Path) -> Layout:
    """List ``images/`` and ``labels/``, or those below ``train/`` and ``test/``.

    Without a test folder, a fifth of the pictures becomes the test split, always the same ones.
    """
    problems: list[str] = []
    split = _pair(root) is None
    train = _cases(root / "train" if split else root, problems)
    test: tuple[Case, ...] = ()
    tests = [root / name for name in TEST_FOLDERS if split and _pair(root / name) is not None]
    if tests:
        test = _cases(tests[0], problems)
    elif len(train) >= 3:
        train, test = hold_out(train, TEST_FRACTION, "test")
    problems += leaks(train, test)
    if not train:
        problems.append(f"{root}: no image with a label of the same name")
    elif not test:
        problems.append(f"{root}: too few images, at least three are needed for training, validation and test")
    return Layout(
        kind="images",
        root=root,
        train=train,
        test=test,
        problems=tuple(problems),
        read=read_part,
        digest=digest_of(["images"], train, test, root),
    )


def read_part(files: tuple[Path, ...]) -> Part:
    """Read one picture and its label.

    Raises:
        DataError: damaged, or of different sizes.
    """
    picture, labelled = files
    image, _ = read_picture(picture)
    label = read_label(labelled)
    if image.shape[1:] != label.shape:
        sizes = "x".join(map(str, image.shape[1:])), "x".join(map(str, label.shape))
        raise DataError(f"{labelled}: label of {sizes[1]} pixels for an image of {sizes[0]}")
    return Part(image[None], label[None])


def read_label(path: Path) -> LabelArray:
    """Read class indices H x W from a picture: its grey values or palette indices; 0 and 255 alone mean 0 and 1.

    Raises:
        DataError: damaged, or colours that are no indices.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            array = np.asarray(file)
    except FileNotFoundError as error:
        raise DataError(f"file not found: {path}") from error
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: damaged image file ({' '.join(str(error).split())[:120]})") from error
    if array.ndim == 3:
        if (array[..., :3] != array[..., :1]).any():
            raise DataError(f"{path}: a colour picture; labels are class indices as grey values or a palette")
        array = array[..., 0]
    if array.dtype == np.uint8 and array.max(initial=0) == 255 and np.isin(array, (0, 255)).all():
        array = array // 255
    return np.ascontiguousarray(checks.class_indices(array, str(path)))


def _pair(root: Path) -> tuple[Path, Path] | None:
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    labels = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    return (images, labels) if images is not None and labels is not None else None


def _cases(root: Path, problems: list[str]) -> tuple[Case, ...]:
    pair = _pair(root)
    if pair is None:
        return ()
    images, labels = _files(pair[0], problems), _files(pair[1], problems)
    for name in sorted(set(images) - set(labels)):
        problems.append(f"{images[name]}: no label of this name in {pair[1]}")
    for name in sorted(set(labels) - set(images)):
        problems.append(f"{labels[name]}: no image of this name in {pair[0]}")
    return tuple(Case(name, name, ((path, labels[name]),)) for name, path in sorted(images.items()) if name in labels)


def _files(folder: Path, problems: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(IMAGE_ENDINGS) and not path.name.startswith("."):
            if path.stem in found:
                problems.append(f"{path}: {found[path.stem].name} has the same name but for its ending")
            found[path.stem] = path
    return found
