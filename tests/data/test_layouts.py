from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from autocompress.data import open_dataset
from autocompress.data.layout import patient_of
from autocompress.errors import DataError


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("case026f01", "case026"),
        ("case0005", "case0005"),
        ("patient001_frame12", "patient001"),
        ("BRATS_001", "BRATS_001"),
        ("leaf01", "leaf01"),
    ],
)
def test_patient_of_a_case(case: str, patient: str) -> None:
    assert patient_of(case) == patient


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 2.0, 5.0, 1.0]) if affine is None else affine), path)


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    """Six CT volumes of 16 x 12 x 4 voxels in Hounsfield units; a label of two classes."""
    root = tmp_path / "Task09"
    for number in range(6):
        label = np.zeros((16, 12, 4), dtype=np.uint8)
        label[2:8, 3:9, 1:] = 1
        label[9:14, 3 + number % 3 : 9, 1:] = 2
        image = np.where(label == 1, 120, np.where(label == 2, 50, -1000)).astype(np.int16)
        write_nifti(root / "imagesTr" / f"spleen_{number}.nii.gz", image)
        write_nifti(root / "labelsTr" / f"spleen_{number}.nii.gz", label)
    (root / "imagesTr" / "._spleen_0.nii.gz").write_bytes(b"left by another system")
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "spleen", "2": "tumour"}}))
    return root


def test_a_nifti_folder(decathlon: Path) -> None:
    dataset = open_dataset(str(decathlon))
    assert dataset.class_names == ("background", "spleen", "tumour")
    counts = [len(dataset.cases(split)) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert counts == [4, 1, 1]
    volume = next(dataset.volumes("train"))
    # Slices along the body, rows from front to back, columns from right to left.
    assert volume.image.shape == (4, 1, 12, 16)
    assert volume.spacing == (5.0, 2.0, 1.5)
    assert volume.image[volume.label[:, None] == 1].tolist() == pytest.approx([245 / 400] * 6 * 6 * 3)
    assert volume.image[volume.label[:, None] == 0].max() == 0
    assert dataset.slices(32).images.shape == (16, 1, 32, 32)
    # Which case is the test case does not depend on the seed.
    assert open_dataset(str(decathlon), seed=5).cases("test") == dataset.cases("test")


def test_a_nifti_folder_of_nnunet_with_two_channels_and_its_own_test_cases(decathlon: Path) -> None:
    for number in range(6):
        path = decathlon / "imagesTr" / f"spleen_{number}.nii.gz"
        path.rename(path.with_name(f"spleen_{number}_0000.nii.gz"))
        write_nifti(path.with_name(f"spleen_{number}_0001.nii.gz"), np.full((16, 12, 4), 0.25, np.float32))
    for folder in ("images", "labels"):
        (decathlon / f"{folder}Ts").mkdir()
        for path in sorted((decathlon / f"{folder}Tr").glob("spleen_5*")):
            path.rename(decathlon / f"{folder}Ts" / path.name)
    (decathlon / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    dataset = open_dataset(str(decathlon))
    assert dataset.class_names == ("background", "a", "b")
    assert dataset.in_channels == 2
    assert dataset.cases("test") == ("spleen_5",)
    assert np.unique(next(dataset.volumes("test")).image[:, 1]).tolist() == [0.25]


def test_faults_of_a_nifti_folder(decathlon: Path) -> None:
    def flawed() -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(str(decathlon))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    # Cases that are no test case, whichever that is.
    first, second = sorted(open_dataset(str(decathlon)).cases("train"))[:2]
    path = decathlon / "imagesTr" / f"{first}.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path}: damaged NIfTI file" in flawed()
    write_nifti(path, np.zeros((16, 12, 5), np.int16))
    assert "does not fit label shape 4x12x16" in flawed()
    write_nifti(path, np.zeros((16, 12, 4), np.int16), np.diag([-1.5, 2, 5, 1]))
    assert "its axes lie otherwise" in flawed()
    path.write_bytes(whole)
    label = decathlon / "labelsTr" / f"{second}.nii.gz"
    whole = label.read_bytes()
    label.unlink()
    assert f"{second}.nii.gz: no label" in flawed()
    label.write_bytes(whole)
    (decathlon / "dataset.json").write_text('{"labels": {"0": "a", "7": "b"}}')
    assert "dataset.json" in flawed()


@pytest.fixture
def aerial(tmp_path: Path) -> Path:
    """Ten colour pictures with labels of three classes, of two sizes."""
    root = tmp_path / "aerial"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number in range(10):
        label = np.zeros((24, 32 if number % 2 else 24), dtype=np.uint8)
        label[4:12], label[14:20] = 1, 2
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], dtype=np.uint8)
        Image.fromarray(colours[label]).save(root / "images" / f"t{number}.png")
        Image.fromarray(label).save(root / "labels" / f"t{number}.png")
    return root


def test_an_image_folder(aerial: Path) -> None:
    dataset = open_dataset(str(aerial))
    assert dataset.in_channels == 3
    counts = [len(dataset.cases(split)) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert counts == [6, 2, 2]
    volumes = list(dataset.volumes("validation"))
    assert {volume.image.shape[:3] for volume in volumes} == {(1, 3, 24)}
    green = volumes[0].image[0, :, 5, 5]
    assert green.tolist() == pytest.approx([30 / 255, 200 / 255, 30 / 255])
    assert volumes[0].label[0, 5, 5] == 1
    assert dataset.slices(32).images.shape == (6, 3, 32, 32)


def test_labels_as_palette_grey_colour_and_mask(aerial: Path) -> None:
    for path in (aerial / "labels").iterdir():
        label = np.asarray(Image.open(path))
        number = int(path.stem[1:])
        if number % 3 == 0:
            Image.fromarray(np.repeat(label[..., None], 3, 2)).save(path)
        elif number % 3 == 1:
            picture = Image.fromarray(label).convert("P")
            picture.putdata(label.ravel().tolist())
            picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
            picture.save(path)
    dataset = open_dataset(str(aerial))
    for split in ("train", "validation", "test"):
        for volume in dataset.volumes(split):  # type: ignore[arg-type]
            assert volume.label[0, :, 3].tolist() == [0] * 4 + [1] * 8 + [0] * 2 + [2] * 6 + [0] * 4
    for path in (aerial / "labels").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path).convert("L")) > 0, 255, 0).astype(np.uint8)).save(path)
    assert open_dataset(str(aerial)).class_names == ("background", "class 1")


def test_an_image_folder_with_its_own_test_pictures(aerial: Path) -> None:
    for split, numbers in (("train", range(8)), ("test", range(8, 10))):
        for old, new in (("images", "IMG"), ("labels", "GT")):
            (aerial / split / new).mkdir(parents=True)
            for number in numbers:
                (aerial / old / f"t{number}.png").rename(aerial / split / new / f"t{number}.png")
    for name in ("images", "labels"):
        (aerial / name).rmdir()
    assert open_dataset(str(aerial)).cases("test") == ("t8", "t9")


def test_faults_of_an_image_folder(aerial: Path) -> None:
    def flawed() -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(str(aerial))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    name = open_dataset(str(aerial)).cases("train")[0]
    label, picture = aerial / "labels" / f"{name}.png", aerial / "images" / f"{name}.png"
    whole = label.read_bytes()
    label.write_bytes(whole[:40])
    assert f"{label}: damaged image file" in flawed()
    Image.open(picture).save(label)
    assert "a colour picture; labels are class indices" in flawed()
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(label)
    assert "label of 5x6 pixels for an image of 24x" in flawed()
    label.unlink()
    assert f"{picture}: no label of this name" in flawed()
    label.write_bytes(whole)
    picture.unlink()
    assert f"{label}: no image of this name" in flawed()


def test_too_few_cases(decathlon: Path, aerial: Path) -> None:
    for number in range(2, 10):
        for path in (aerial / "images" / f"t{number}.png", aerial / "labels" / f"t{number}.png"):
            path.unlink()
    with pytest.raises(DataError, match="at least three are needed"):
        open_dataset(str(aerial))
    for number in range(6):
        (decathlon / "imagesTr" / f"spleen_{number}.nii.gz").unlink()
    with pytest.raises(DataError, match="no image of this name"):
        open_dataset(str(decathlon))
