from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from autocompress.data.inputs import read_image, write_labels
from autocompress.data.overlay import blend, colours, pick_slices, write_overlay
from autocompress.errors import DataError


def voxels(codes: str, shape: tuple[int, int, int] = (7, 9, 5)) -> nib.Nifti1Image:
    """CT in Hounsfield units with one bright voxel near the patient's right, front and feet, stored along ``codes``."""
    array = np.full(shape, -1000, dtype=np.int16)
    array[1, 7, 0] = 275  # in right-to-left order of x... see the affine: x grows to the left here
    affine = np.diag([-1.0, 2.0, 4.0, 1.0])  # stored as left, front (anterior), up
    affine[:3, 3] = (11, -20, 300)
    image = nib.Nifti1Image(array, affine)
    target = nib.orientations.axcodes2ornt(tuple(codes))
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), target))


@pytest.mark.parametrize("codes", ["LAS", "RAS", "LPS", "RPI", "SPL", "ILA", "AIR"])
def test_every_orientation_comes_in_alike_and_goes_out_as_it_was(tmp_path: Path, codes: str) -> None:
    path = tmp_path / "ct.nii.gz"
    stored = voxels(codes)
    nib.save(stored, path)
    image = read_image(path)
    assert image.pixels.shape == (5, 1, 9, 7)
    assert image.spacing == (4.0, 2.0, 1.0)
    assert image.scaling == "hounsfield"
    # Feet first, belly up, the patient's right on the left: the voxel is in the first slice, high up, on the left.
    assert np.argwhere(image.pixels[:, 0] == 1).tolist() == [[0, 1, 1]]
    assert image.pixels.sum() == 1

    label = (image.pixels[:, 0] == 1).astype(np.uint8) * 3
    write_labels(tmp_path / "label.nii.gz", label, image)
    written = nib.load(tmp_path / "label.nii.gz")
    assert written.shape == stored.shape
    np.testing.assert_allclose(written.affine, stored.affine)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj) == 3, np.asarray(stored.dataobj) == 275)


def test_equal_labels_give_equal_files(tmp_path: Path) -> None:
    nib.save(voxels("RAS"), tmp_path / "ct.nii")
    image = read_image(tmp_path / "ct.nii")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, np.ones(image.shape, np.uint8), image)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def save(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def test_how_intensities_are_scaled(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "x.nii.gz"
    unit = random.random((4, 4, 4)).astype(np.float32)
    assert read_image(save(path, unit)).scaling == "unit"
    image = read_image(save(path, np.full((4, 4, 4), 51, np.uint8)))
    assert (image.scaling, image.pixels[0, 0, 0, 0]) == ("integer", pytest.approx(0.2))
    image = read_image(save(path, np.array([-1000, -125, 75, 275, 3000], np.int16).reshape(5, 1, 1)))
    assert image.pixels.ravel().tolist() == pytest.approx([1, 1, 0.5, 0, 0])  # x grows to the right in this file
    magnetic = random.integers(0, 1200, (20, 20, 20)).astype(np.int16)
    image = read_image(save(path, magnetic))
    assert image.scaling == "percentile"
    assert (image.pixels.min(), image.pixels.max()) == (0, 1)
    unit[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        read_image(save(path, unit))


def test_a_real_ct(acdc: Path, tmp_path: Path) -> None:
    folder = acdc.parent / "ct_sample"
    if not folder.is_dir():
        pytest.skip(f"no CT in {folder}")
    image = read_image(folder / "ct.nii.gz")
    assert image.pixels.shape == (30, 1, 101, 122)
    assert image.spacing == (3.0, 3.0, 3.0)
    reference = nib.load(folder / "labels.nii.gz")
    assert image.grid is not None
    label = image.grid.from_file(np.asarray(reference.dataobj)).astype(np.uint8)

    def centre(index: int) -> np.ndarray:
        return np.argwhere(label == index).mean(axis=0)

    liver, spleen, aorta, right, left = (centre(index) for index in (5, 1, 52, 2, 3))
    assert liver[2] < aorta[2] < spleen[2]  # the liver is the patient's right, on the image's left
    assert right[2] < left[2]
    assert aorta[1] > liver[1]  # the aorta is near the back, below
    assert image.pixels[label[:, None] == 5].mean() == pytest.approx(0.5, abs=0.15)
    write_labels(tmp_path / "out.nii.gz", label, image)
    written = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(reference.dataobj))
    np.testing.assert_allclose(written.affine, reference.affine, atol=1e-6)


def test_npz_and_h5(tmp_path: Path) -> None:
    slice_image = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    path = tmp_path / "case0001_slice001.npz"
    np.savez(path, image=slice_image, label=np.ones((6, 8), np.uint8))
    image = read_image(path)
    assert np.array_equal(image.pixels, slice_image[None, None])
    assert image.label is not None
    assert image.label.shape == (1, 6, 8)
    write_labels(tmp_path / "out.npz", image.label, image)
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["label"].shape == (6, 8)

    path = tmp_path / "case0001.npy.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.repeat(slice_image[None], 4, 0)
    image = read_image(path)
    assert image.shape == (4, 6, 8)
    assert image.label is None
    labels = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8)
    write_labels(tmp_path / "out.npy.h5", labels, image)
    with h5py.File(tmp_path / "out.npy.h5") as file:
        assert np.array_equal(file["label"], labels)
    # A volume without an affine becomes a NIfTI that comes in again as it was.
    write_labels(tmp_path / "out.nii.gz", labels, image)
    again = read_image(tmp_path / "out.nii.gz")
    assert np.array_equal((again.pixels[:, 0] * 255 + 0.5).astype(np.uint8), labels)


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((6, 8), None, (1, 1, 6, 8)),
        ((6, 8, 3), None, (1, 3, 6, 8)),
        ((3, 6, 8), None, (1, 3, 6, 8)),
        ((3, 6, 8), 1, (3, 1, 6, 8)),
        ((9, 6, 8), None, (9, 1, 6, 8)),
        ((9, 6, 8, 2), None, (9, 2, 6, 8)),
        ((9, 2, 6, 8), 2, (9, 2, 6, 8)),
    ],
)
def test_axes_of_an_array_without_a_label(
    tmp_path: Path, shape: tuple[int, ...], channels: int | None, expected: tuple[int, ...]
) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros(shape, np.float32))
    assert read_image(tmp_path / "x.npz", in_channels=channels).pixels.shape == expected


def test_pictures(tmp_path: Path) -> None:
    colour = np.zeros((6, 8, 3), dtype=np.uint8)
    colour[..., 1] = 255
    Image.fromarray(colour).save(tmp_path / "x.png")
    Image.fromarray(colour).save(tmp_path / "x.JPG")
    assert read_image(tmp_path / "x.png").pixels[0, :, 0, 0].tolist() == [0, 1, 0]
    assert read_image(tmp_path / "x.JPG").pixels.shape == (1, 3, 6, 8)
    assert read_image(tmp_path / "x.png", in_channels=1).pixels[0, 0, 0, 0] == pytest.approx(0.587, abs=0.01)
    Image.fromarray(np.full((6, 8), 51, np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").pixels.shape == (1, 1, 6, 8)
    assert read_image(tmp_path / "grey.png", in_channels=3).pixels[0, :, 0, 0].tolist() == pytest.approx([0.2] * 3)
    Image.fromarray(np.full((6, 8), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").pixels.max() == 1

    image = read_image(tmp_path / "x.png")
    label = np.arange(48, dtype=np.uint8).reshape(1, 6, 8)
    write_labels(tmp_path / "label.png", label, image)
    with Image.open(tmp_path / "label.png") as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), label[0])
        assert written.convert("RGB").getpixel((1, 0)) == colours(2)[1]


def test_wrong_inputs_are_one_line(tmp_path: Path) -> None:
    def flawed(path: Path, **options: int) -> str:
        with pytest.raises(DataError) as caught:
            read_image(path, **options)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "file not found" in flawed(tmp_path / "none.npz")
    assert "a folder; give one file" in flawed(tmp_path)
    for name, message in (
        ("x.txt", "unknown format; known are .npz"),
        ("x.npz", "damaged npz"),
        ("x.npy.h5", "damaged HDF5"),
        ("x.nii.gz", "damaged NIfTI"),
        ("x.nii", "damaged NIfTI"),
        ("x.png", "damaged image"),
    ):
        (tmp_path / name).write_bytes(b"nothing of that kind")
        assert message in flawed(tmp_path / name)
    np.savez(tmp_path / "y.npz", picture=np.zeros((4, 4)))
    assert "no array 'image'" in flawed(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", image=np.zeros((4, 4), np.float32))
    assert "1 channels, but the network takes 3" in flawed(tmp_path / "z.npz", in_channels=3)
    save(tmp_path / "flat.nii.gz", np.zeros((3, 3, 3, 2, 2), np.float32))
    assert "5 axes" in flawed(tmp_path / "flat.nii.gz")


def test_labels_that_cannot_be_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros((5, 6, 8), np.float32))
    image = read_image(tmp_path / "x.npz")
    labels = np.zeros((5, 6, 8), np.uint8)
    with pytest.raises(DataError, match="a PNG holds one slice, the input has 5"):
        write_labels(tmp_path / "out.png", labels, image)
    with pytest.raises(DataError, match="cannot write labels in this format"):
        write_labels(tmp_path / "out.txt", labels, image)
    with pytest.raises(DataError, match="cannot write"):
        write_labels(tmp_path / "nowhere" / "out.npz", labels, image)
    with pytest.raises(ValueError, match="do not fit"):
        write_labels(tmp_path / "out.npz", labels[:2], image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz"]


def test_slices_worth_a_look() -> None:
    label = np.zeros((8, 6, 6), np.uint8)
    label[2, :, :], label[4, :2], label[4, 3], label[6, 0, 0] = 1, 1, 2, 1
    assert pick_slices(label, 1) == [4]  # two classes beat more of one
    assert pick_slices(label, 2) == [3, 5]
    assert pick_slices(np.zeros((8, 6, 6), np.uint8), 1) == [4]
    assert pick_slices(label[:1], 5) == [0]


def test_overlay(tmp_path: Path) -> None:
    pixels = np.full((5, 1, 40, 40), 0.5, np.float32)
    labels = np.zeros((5, 40, 40), np.uint8)
    labels[3, 10:20, 10:20] = 2
    picture = blend(pixels[3], labels[3])
    assert picture[0, 0].tolist() == [128] * 3
    assert picture[15, 15].tolist() == [round((128 + channel) / 2) for channel in colours(3)[2]]
    for slices, reference in ((1, None), (4, labels), (1, labels)):
        write_overlay(tmp_path / "o.png", pixels, labels, ("background", "a", "b"), slices=slices, reference=reference)
        with Image.open(tmp_path / "o.png") as sheet:
            shown = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
        assert (shown == picture[15, 15]).all(axis=1).sum() > 100  # the organ
        assert (shown == colours(3)[1]).all(axis=1).sum() > 50  # the legend
    assert len(set(colours(41))) == 41
    with pytest.raises(DataError, match="cannot write"):
        write_overlay(tmp_path / "no" / "o.png", pixels, labels, ("background", "a", "b"))
