"""Tiny folders in every layout, whole or with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def body(seed: int, slices: int, height: int = 20, width: int = 24, classes: int = 3) -> tuple[Any, Any]:
    """An image volume in 0..1 and a label volume with blocks of every class."""
    random = np.random.default_rng(seed)
    label = np.zeros((slices, height, width), dtype=np.uint8)
    for index in range(1, classes):
        top = 2 + 5 * (index - 1)
        label[:, top : top + 4, 4 + seed % 5 : 14] = index
    image = np.clip(label / classes + random.random(label.shape) * 0.2, 0, 1).astype(np.float32)
    return image, label


@pytest.fixture
def synapse(tmp_path: Path) -> Path:
    """Four training patients (one with two moments) and two test patients, three classes, 20 x 24 pixels."""
    root = tmp_path / "heart"
    for name in ("train_npz", "test_vol_h5", "lists"):
        (root / name).mkdir(parents=True)
    names = []
    for seed, case in enumerate(["case001f01", "case001f02", "case002f01", "case003f01", "case004f01"]):
        image, label = body(seed, 3)
        for index in (2, 0, 1):  # the list's order is not the slices' order
            name = f"{case}_slice{index + 8:03d}"
            np.savez_compressed(root / "train_npz" / f"{name}.npz", image=image[index], label=label[index])
            names.append(name)
    (root / "lists" / "train.txt").write_text("\n".join(names) + "\n")
    for seed, case in enumerate(["case005f01", "case006f01"]):
        image, label = body(seed + 10, 2)
        with h5py.File(root / "test_vol_h5" / f"{case}.npy.h5", "w") as file:
            file["image"], file["label"] = image, label
    (root / "lists" / "test_vol.txt").write_text("case005f01\ncase006f01\n")
    return root


@pytest.fixture
def rewrite(synapse: Path) -> Callable[..., Path]:
    """Replace arrays of one training slice; ``None`` removes one."""

    def change(name: str = "case003f01_slice009", **arrays: Any) -> Path:
        path = synapse / "train_npz" / f"{name}.npz"
        with np.load(path) as archive:
            values = {**{key: archive[key] for key in archive.files}, **arrays}
        np.savez_compressed(path, **{key: value for key, value in values.items() if value is not None})
        return path

    return change
