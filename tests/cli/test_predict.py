from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from autocompress.bundles import load
from autocompress.cli import main

from ..bundles.conftest import CLASSES, parts, template

__all__ = ["parts", "template"]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A small NIfTI volume with odd axes and millimetres, in 0..1."""
    affine = np.array([[0, 0, 3.0, 5], [-2.0, 0, 0, 7], [0, 1.5, 0, 9], [0, 0, 0, 1]])
    array = np.random.default_rng(0).random((36, 6, 40), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "volume.nii.gz")
    return tmp_path / "volume.nii.gz"


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["predict", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_nifti_volume_keeps_its_grid(template: Path, volume: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    assert main(["predict", str(template), str(volume), "--out", str(out), "--overlay", str(tmp_path / "o.png")]) == 0
    source, labels = nibabel.load(volume), nibabel.load(out)
    assert labels.shape == source.shape
    np.testing.assert_allclose(labels.affine, source.affine)
    assert set(np.unique(np.asarray(labels.dataobj))) <= set(range(len(CLASSES)))
    assert Image.open(tmp_path / "o.png").size[0] > 100


def test_a_slice_gives_the_labels_of_load_predict(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (50, 44), dtype=np.uint8)
    reference = np.zeros((50, 44), np.uint8)
    np.savez(tmp_path / "in.npz", image=image, label=reference)
    assert main(["predict", str(template), str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "out.npz") as file:
        labels = file["label"]
    np.testing.assert_array_equal(labels, load(template).predict(image))
    assert told["shape"] == [1, 50, 44]
    assert sum(told["classes"].values()) == 50 * 44
    assert told["classes"][CLASSES[0]] == int((labels == 0).sum())
    # Nothing is in the reference: a class that is predicted counts 0, one that is not counts 100.
    assert told["dice"] == {name: 0.0 if (labels == n).any() else 100.0 for n, name in enumerate(CLASSES) if n}


def test_an_image_gives_a_png(template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (30, 20), dtype=np.uint8)).save(tmp_path / "in.png")
    assert main(["predict", str(template), str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").size == (20, 30)
    assert "divided by the range of their type" in capsys.readouterr().out


def test_what_cannot_work_is_one_line(
    template: Path, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.nii.gz"
    assert "not found" in fails(capsys, template, tmp_path / "none.npz", "--out", out)
    assert "no bundle" in fails(capsys, tmp_path, volume, "--out", out)
    assert "does not exist" in fails(capsys, template, volume, "--out", tmp_path / "no" / "out.npz")
    assert "is a folder" in fails(capsys, template, volume, "--out", tmp_path)
    assert "the input itself" in fails(capsys, template, volume, "--out", volume)
    assert "choose two names" in fails(capsys, template, volume, "--out", out, "--overlay", out)
    assert "one slice" in fails(capsys, template, volume, "--out", tmp_path / "out.png")
    assert "known are" in fails(capsys, template, volume, "--out", tmp_path / "out.xyz")
    assert "--slices" in fails(capsys, template, volume, "--out", out, "--slices", 0)
    np.savez(tmp_path / "rgb.npz", image=np.zeros((3, 4, 3, 32, 32), np.float32))
    assert "shape" in fails(capsys, template, tmp_path / "rgb.npz", "--out", out)
    np.savez(tmp_path / "wide.npz", image=np.zeros((2, 3, 32, 32), np.float32))
    assert "channels" in fails(capsys, template, tmp_path / "wide.npz", "--out", out)
    (tmp_path / "bad.nii.gz").write_bytes(volume.read_bytes()[:200])
    assert "bad.nii.gz" in fails(capsys, template, tmp_path / "bad.nii.gz", "--out", out)
    assert not out.exists()
