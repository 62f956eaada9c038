"""Open a data set by its folder or by the name of a built-in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from autocompress.data import images, nifti, synapse
from autocompress.data.folder import FolderDataset
from autocompress.data.layout import Layout
from autocompress.errors import DataError

Progress = Callable[[int, int], None]


def open_dataset(
    name_or_path: str,
    *,
    seed: int = 0,
    validation_fraction: float = 0.2,
    class_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> FolderDataset:
    """Open a data set.

    Args:
        name_or_path: ``phantoms`` or another built-in name (``phantoms-tiny``), made on first use; or a folder in
            the Synapse layout, with NIfTI files (imagesTr, labelsTr) or with images (images, labels). A folder that
            is called like a built-in data set is written ``./phantoms``.
        seed: decides which training patients are put aside for validation.
        validation_fraction: their share; at least one patient, and at least one stays for training.
        class_names: with or without the background; else from ``dataset.yaml`` or ``classes.txt`` in the folder,
            else customary or numbered.
        progress: called with (done, total) while built-in data are made.

    Raises:
        DataError: not found, in no known layout, damaged or inconsistent; one line.
    """
    root, name = locate(name_or_path, progress)
    return FolderDataset(
        read_layout(root),
        name=name,
        seed=seed,
        validation_fraction=validation_fraction,
        class_names=class_names,
    )


def locate(name_or_path: str, progress: Progress | None = None) -> tuple[Path, str]:
    """Folder and short name of a data set; built-in ones are made where they are missing.

    Raises:
        DataError: no such folder and no such built-in data set.
    """
    from autocompress.data import phantoms

    text = str(name_or_path)
    built_in = text.replace(":", "-") if text.startswith("phantoms:") else text
    if built_in in phantoms.VARIANTS:
        return phantoms.cached(built_in, progress), built_in
    try:
        root = Path(text).expanduser()
        found = bool(text) and root.exists()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a null byte
        found = False
    if not found:
        raise DataError(f"data set not found: {text!r} is no folder and not built in ({', '.join(phantoms.VARIANTS)})")
    if not root.is_dir():
        raise DataError(f"{root}: a file; give the folder of the data set")
    return root, root.resolve().name or "data"


def read_layout(root: Path) -> Layout:
    """Recognise a folder's layout and list its cases; problems are collected in the answer.

    Raises:
        DataError: no known layout, or not readable at all.
    """
    try:
        for recognise, read in (
            (synapse.is_synapse, synapse.read_layout),
            (nifti.is_nifti, nifti.read_layout),
            (images.is_images, images.read_layout),
        ):
            if recognise(root):
                return read(root)
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror or error})") from error
    raise DataError(
        f"{root}: no known layout; expected train_npz/, test_vol_h5/ and lists/ (Synapse), "
        "imagesTr/ and labelsTr/ (NIfTI), or images/ and labels/ (images)"
    )
