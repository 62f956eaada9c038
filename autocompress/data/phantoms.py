"""Built-in abdominal CT phantoms with the eight Synapse organs, in the Synapse layout.

The bodies come from `anatomy`; this module names the variants, and makes each once, in the cache.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.data.anatomy import Phantom, make_patient
from autocompress.data.cache import atomic_file, cache_error, cache_folder, locked
from autocompress.data.synapse import SYNAPSE_CLASSES

# Part of the cache's folder name: raise it when the bodies change, so that old and new are not mixed up.
VERSION = 3
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PhantomSet:
    """How many phantoms of which size.

    Attributes:
        train, test: patients.
        slices: per patient; together they always cover the same 216 mm.
        size: pixels along both sides of a slice; together they always cover the same 360 mm.
        seed: of the whole set; patient n depends on the seed and n alone.
    """

    train: int
    test: int
    slices: int
    size: int
    seed: int = 0


VARIANTS: dict[str, PhantomSet] = {
    "phantoms": PhantomSet(train=24, test=8, slices=24, size=192),
    "phantoms-tiny": PhantomSet(train=4, test=2, slices=8, size=64),
}


def cached(name: str, progress: Progress | None = None) -> Path:
    """Folder of a built-in variant, made on first use; processes that ask meanwhile wait for it.

    Args:
        name: a key of `VARIANTS`.
        progress: called with (done, total) patients.

    Raises:
        DataError: the cache cannot be written.
    """
    parent = cache_folder("phantoms")
    folder = parent / f"{name}-v{VERSION}"
    if folder.is_dir():
        return folder
    with locked(parent / f"{folder.name}.lock"):
        if not folder.is_dir():
            make_phantoms(folder, VARIANTS[name], progress)
    return folder


def make_phantoms(folder: Path, phantoms: PhantomSet, progress: Progress | None = None) -> None:
    """Make a set of phantoms in the Synapse layout; the folder appears when it is complete.

    Args:
        folder: must not exist; its parent must.
        phantoms: what to make.
        progress: called with (done, total) patients.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    total = phantoms.train + phantoms.test
    try:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise cache_error(folder, error) from error
    try:
        for name in ("train_npz", "test_vol_h5", "lists"):
            (temporary / name).mkdir()
        lists: dict[str, list[str]] = {"train.txt": [], "test_vol.txt": []}
        # NumPy lets go of the interpreter in its loops, so two threads are nearly twice as fast as one.
        with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            patients = pool.map(
                lambda number: make_patient(phantoms.seed, number, phantoms.slices, phantoms.size), range(total)
            )
            for number, patient in enumerate(patients):
                case = f"case{number + 1:04d}"
                if number < phantoms.train:
                    lists["train.txt"] += _save_slices(temporary / "train_npz", case, patient)
                else:
                    _save_volume(temporary / "test_vol_h5" / f"{case}.npy.h5", patient)
                    lists["test_vol.txt"].append(case)
                if progress is not None:
                    progress(number + 1, total)
        for name, lines in lists.items():
            (temporary / "lists" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        names = "".join(f"  - {name}\n" for name in SYNAPSE_CLASSES)
        text = f"description: Synthetic abdominal CT phantoms, no patient data\nclass_names:\n{names}"
        (temporary / "dataset.yaml").write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        raise cache_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_slices(folder: Path, case: str, patient: Phantom) -> list[str]:
    names = [f"{case}_slice{index:03d}" for index in range(len(patient.image))]
    spacing = np.array(patient.spacing, dtype=np.float32)
    for name, image, label in zip(names, patient.image, patient.label, strict=True):
        # In memory first: a zip file that cannot be finished on a full disk complains once more when it is dropped.
        buffer = io.BytesIO()
        np.savez_compressed(buffer, image=image, label=label, spacing=spacing)
        with atomic_file(folder / f"{name}.npz", durable=False) as stream:
            stream.write(buffer.getbuffer())
    return names


def _save_volume(path: Path, patient: Phantom) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["image"] = patient.image.astype(np.float32) / np.float32(255)
        file["label"] = patient.label
        file["spacing"] = np.array(patient.spacing, dtype=np.float32)
