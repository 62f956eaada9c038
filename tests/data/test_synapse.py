from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from autocompress.data import open_dataset
from autocompress.data.dataset import Split
from autocompress.data.preprocess import to_network
from autocompress.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def patients(cases: tuple[str, ...]) -> set[str]:
    return {case[:7] for case in cases}


def test_patients_stay_in_one_split_with_all_their_moments(synapse: Path) -> None:
    for seed in range(8):
        dataset = open_dataset(str(synapse), seed=seed)
        train, validation, test = (patients(dataset.cases(split)) for split in SPLITS)
        assert train | validation == {"case001", "case002", "case003", "case004"}
        assert not train & validation
        assert test == {"case005", "case006"}
        assert len(validation) == 1
        # Both moments of patient 1 are in the same split.
        assert sum("case001f01" in dataset.cases(s) and "case001f02" in dataset.cases(s) for s in SPLITS) == 1
    assert len({open_dataset(str(synapse), seed=seed).cases("validation") for seed in range(8)}) > 1
    assert open_dataset(str(synapse), seed=3).cases("validation") == open_dataset(str(synapse), seed=3).cases(
        "validation"
    )


def test_the_share_of_validation_patients(synapse: Path) -> None:
    assert len(patients(open_dataset(str(synapse), validation_fraction=0.5).cases("validation"))) == 2
    # One patient always stays for training.
    assert len(patients(open_dataset(str(synapse), validation_fraction=0.99).cases("validation"))) == 3
    with pytest.raises(DataError, match=r"validation_fraction 1\.5 is not between 0 and 1"):
        open_dataset(str(synapse), validation_fraction=1.5)


def test_volumes_are_put_together_in_slice_order(synapse: Path) -> None:
    dataset = open_dataset(str(synapse))
    for volume in dataset.volumes("validation"):
        assert volume.image.shape == (3, 1, 20, 24)
        assert volume.image.dtype == np.float32
        for position, index in enumerate((8, 9, 10)):
            with np.load(synapse / "train_npz" / f"{volume.case}_slice{index:03d}.npz") as archive:
                assert np.array_equal(volume.image[position, 0], archive["image"])
                assert np.array_equal(volume.label[position], archive["label"])
    assert [volume.case for volume in dataset.volumes("test")] == ["case005f01", "case006f01"]


def test_slices_of_a_resolution(synapse: Path) -> None:
    dataset = open_dataset(str(synapse))
    slices = dataset.slices(16, 32)
    count = 3 * len(dataset.cases("train"))
    assert slices.images.shape == (count, 1, 16, 16)
    assert slices.labels.shape == (count, 32, 32)
    assert (slices.images.dtype, slices.labels.dtype) == (np.float32, np.uint8)
    expected = np.concatenate([to_network(volume.image, 16) for volume in dataset.volumes("train")])
    assert np.array_equal(slices.images, expected)
    again = dataset.slices(16)
    assert np.array_equal(again.images, expected)
    assert again.labels.shape == (count, 16, 16)
    # Writing into what one caller got reaches nobody else.
    slices.images[:] = 7
    assert np.array_equal(dataset.slices(16).images, expected)


def test_a_damaged_cache_is_made_again(synapse: Path) -> None:
    dataset = open_dataset(str(synapse))
    before = dataset.slices(24).images.copy()
    cache = Path(os.environ["AUTOCOMPRESS_CACHE"]) / "slices" / dataset.fingerprint / "images-24.npy"
    cache.write_bytes(cache.read_bytes()[:500])
    assert np.array_equal(dataset.slices(24).images, before)


def _sum_of_slices(root: str) -> float:
    return float(open_dataset(root).slices(40).images.sum())


def test_processes_that_ask_at_once_get_the_same(synapse: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        sums = pool.map(_sum_of_slices, [str(synapse)] * 3)
    assert len(set(sums)) == 1
    folder = Path(os.environ["AUTOCOMPRESS_CACHE"]) / "slices" / open_dataset(str(synapse)).fingerprint
    names = sorted(path.name for path in folder.iterdir())
    assert {"images-40.npy", "labels-40.npy"} <= set(names)
    assert not [name for name in names if name.startswith(".")]


def test_fingerprint_follows_content_and_split_and_not_the_place(synapse: Path, rewrite: Callable[..., Path]) -> None:
    first = open_dataset(str(synapse)).fingerprint
    copy = synapse.parent / "copy"
    shutil.copytree(synapse, copy)
    assert open_dataset(str(copy)).fingerprint == first
    assert open_dataset(str(synapse), seed=1, validation_fraction=0.5).fingerprint != first
    assert open_dataset(str(synapse), class_names=["a", "b"]).fingerprint != first
    with np.load(rewrite()) as archive:
        image = archive["image"]
    image[0, 0] += 0.001  # one pixel, file sizes may stay
    rewrite(image=image)
    assert open_dataset(str(synapse)).fingerprint != first


def test_test_volumes_are_not_opened_before_they_are_asked_for(synapse: Path) -> None:
    broken = synapse / "test_vol_h5" / "case006f01.npy.h5"
    broken.write_bytes(b"no HDF5 at all")
    dataset = open_dataset(str(synapse))
    dataset.slices(16)
    assert dataset.cases("test") == ("case005f01", "case006f01")
    volumes = dataset.volumes("test")
    assert next(volumes).case == "case005f01"
    with pytest.raises(DataError, match=r"case006f01\.npy\.h5: damaged HDF5 file"):
        next(volumes)


def test_integer_images_are_scaled_by_their_type(synapse: Path, rewrite: Callable[..., Path]) -> None:
    dataset = open_dataset(str(synapse))
    case = dataset.cases("validation")[0]
    for dtype, brightest in ((np.uint8, 255), (np.uint16, 65535), (np.int16, 32767)):
        image = np.zeros((20, 24), dtype=dtype)
        image[0, 0] = brightest
        rewrite(f"{case}_slice009", image=image)
        pixels = next(open_dataset(str(synapse)).volumes("validation")).image[1, 0]
        assert pixels[0, 0] == 1
        # Zero lies in the middle of a signed type's range.
        assert pixels[5, 5] == pytest.approx(0 if np.dtype(dtype).kind == "u" else 0.5, abs=1e-4)


@pytest.mark.parametrize("last", [True, False])
def test_colour_images_in_both_orders(synapse: Path, rewrite: Callable[..., Path], last: bool) -> None:
    for path in (synapse / "train_npz").iterdir():
        image = np.zeros((20, 24, 3), dtype=np.uint8)
        image[..., 2] = 255
        rewrite(path.stem, image=image if last else np.moveaxis(image, 2, 0))
    dataset = open_dataset(str(synapse))
    assert dataset.in_channels == 3
    assert dataset.slices(16).images.mean(axis=(0, 2, 3)).tolist() == pytest.approx([0, 0, 1])


def test_spacing_is_read_where_it_is_given(synapse: Path) -> None:
    with h5py.File(synapse / "test_vol_h5" / "case005f01.npy.h5", "a") as file:
        file["spacing"] = np.array([5.0, 1.5, 1.25])
    first, second = open_dataset(str(synapse)).volumes("test")
    assert first.spacing == (5.0, 1.5, 1.25)
    assert second.spacing == (1.0, 1.0, 1.0)


def test_class_names(synapse: Path) -> None:
    def names(**options: Any) -> tuple[str, ...]:
        return open_dataset(str(synapse), **options).class_names

    assert names() == ("background", "class 1", "class 2")
    (synapse / "classes.txt").write_text("right ventricle\n\nmyocardium\n")
    assert names() == ("background", "right ventricle", "myocardium")
    (synapse / "dataset.yaml").write_text("class_names: [background, one, two, three]\n")
    assert names() == ("background", "one", "two", "three")
    assert names(class_names=["x", "y"]) == ("background", "x", "y")
    with pytest.raises(DataError, match=r"label value 2 is beyond the 2 classes \(0 to 1\)"):
        names(class_names=["x"])


def test_nine_classes_of_synapse_have_their_customary_names(synapse: Path, rewrite: Callable[..., Path]) -> None:
    for path in sorted((synapse / "train_npz").iterdir()):
        path.rename(path.with_name(path.name.replace("f0", "")))  # case001f01 -> case0011, as Synapse names its cases
    text = (synapse / "lists" / "train.txt").read_text().replace("f0", "")
    (synapse / "lists" / "lists_Synapse").mkdir()
    (synapse / "lists" / "lists_Synapse" / "train.txt").write_text(text)
    (synapse / "lists" / "train.txt").unlink()
    (synapse / "lists" / "test_vol.txt").rename(synapse / "lists" / "lists_Synapse" / "test_vol.txt")
    label = np.zeros((20, 24), dtype=np.float32)
    label[3, 3] = 8
    rewrite("case0031_slice009", label=label)
    names = open_dataset(str(synapse)).class_names
    assert names[1:] == (
        "aorta",
        "gallbladder",
        "left kidney",
        "right kidney",
        "liver",
        "pancreas",
        "spleen",
        "stomach",
    )


def flawed(path: Path) -> str:
    """The one line that opening gives."""
    with pytest.raises(DataError) as caught:
        open_dataset(str(path))
    text = str(caught.value)
    assert "\n" not in text
    return text


SHAPE = (20, 24)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": np.full(SHAPE, -1, np.int16)}, "negative value -1"),
        ({"label": np.full(SHAPE, 0.5, np.float32)}, "fractions"),
        ({"label": np.full(SHAPE, np.nan, np.float32)}, "NaN"),
        ({"label": np.full(SHAPE, 300, np.int32)}, "value 300; at most 255 classes"),
        ({"label": np.zeros((20, 23), np.uint8)}, "image shape 20x24 does not fit label shape 20x23"),
        ({"label": None}, "no array 'label'"),
        ({"image": None}, "no array 'image'"),
        ({"image": np.full(SHAPE, np.nan, np.float32)}, "NaN or infinite"),
        ({"image": np.full(SHAPE, np.inf, np.float32)}, "NaN or infinite"),
        ({"image": np.full(SHAPE, 275.0, np.float32)}, "from 275 to 275, expected 0 to 1"),
        ({"image": np.zeros(SHAPE, complex)}, "type complex128"),
        ({"image": np.zeros(SHAPE, "U1")}, "expected numbers"),
        ({"image": np.full(SHAPE, None, object)}, "pickled objects"),
        ({"image": np.zeros((2, 20, 24), np.float32)}, "2 channels, but"),
        ({"image": np.zeros((21, 24), np.float32), "label": np.zeros((21, 24), np.uint8)}, "of the same case has"),
        ({"image": np.zeros((0, 0), np.float32), "label": np.zeros((0, 0), np.uint8)}, "expected height x width"),
        ({"spacing": np.array([1.0, 0.0, 1.0])}, "spacing must be three positive numbers"),
    ],
)
def test_a_wrong_training_slice_is_named(
    synapse: Path, rewrite: Callable[..., Path], arrays: dict[str, Any], message: str
) -> None:
    path = rewrite(**arrays)
    text = flawed(synapse)
    assert str(path) in text
    assert message in text


@pytest.mark.parametrize("fault", ["empty", "text", "head", "half", "bit"])
def test_a_damaged_npz_is_named(synapse: Path, fault: str) -> None:
    open_dataset(str(synapse))  # what was learnt from the whole file must not hide the fault
    path = synapse / "train_npz" / "case002f01_slice009.npz"
    whole = path.read_bytes()
    place = len(whole) // 4
    contents = {
        "empty": b"",
        "text": b"nonsense",
        "head": b"PK\x03\x04 cut",
        "half": whole[: len(whole) // 2],
        "bit": whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :],
    }
    path.write_bytes(contents[fault])
    assert f"{path}: damaged npz file" in flawed(synapse)


def test_a_pickle_is_not_loaded(synapse: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(synapse / "exploded"),))

    (synapse / "train_npz" / "case002f01_slice009.npz").write_bytes(pickle.dumps(Bomb()))
    assert "case002f01_slice009.npz" in flawed(synapse)
    assert not (synapse / "exploded").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../etc/passwd_slice000", "leaves its folder"),
        ("/etc/passwd_slice000", "leaves its folder"),
        ("..\\x_slice000", "leaves its folder"),
        ("case009f01_slice000", "case009f01_slice000.npz is missing"),
        ("case001f01_slice008", "listed twice"),
        ("case001", "not of the form caseXXXX_sliceYYY"),
    ],
)
def test_a_wrong_line_in_the_list_is_named(synapse: Path, line: str, message: str) -> None:
    with (synapse / "lists" / "train.txt").open("a") as stream:
        stream.write(line + "\n")
    text = flawed(synapse)
    assert message in text
    assert "train.txt" in text


def test_wrong_lists_and_folders(synapse: Path, tmp_path: Path) -> None:
    lists = synapse / "lists"
    whole = {path.name: path.read_text() for path in lists.iterdir()}

    (lists / "test_vol.txt").write_text("case005f01\ncase006f01\ncase007f01\n")
    assert "case007f01.npy.h5 is missing" in flawed(synapse)
    (lists / "test_vol.txt").write_text("\n")
    assert "test_vol.txt: the list is empty" in flawed(synapse)
    (lists / "test_vol.txt").unlink()
    assert "list not found" in flawed(synapse)
    (lists / "test_vol.txt").write_text(whole["test_vol.txt"])

    (lists / "train.txt").write_bytes(b"\xff\xfe\x00")
    assert "not a readable list" in flawed(synapse)
    (lists / "train.txt").write_text("")
    assert "train.txt: the list is empty" in flawed(synapse)
    (lists / "train.txt").write_text("case001f01_slice008\ncase001f02_slice008\n")
    assert "1 training patient(s); at least two are needed" in flawed(synapse)
    (lists / "train.txt").unlink()
    assert "no train.txt in lists/lists_Synapse or lists_Synapse or lists" in flawed(synapse)

    assert "data set not found: " in flawed(tmp_path / "nowhere")
    assert "no known layout; expected train_npz/" in flawed(tmp_path)
    assert "a file; give the folder" in flawed(synapse / "test_vol_h5" / "case005f01.npy.h5")
    with pytest.raises(DataError, match=r"not built in \(phantoms, phantoms-tiny\)"):
        open_dataset("phantom")
    for odd in ("", "\0", "x" * 5000):
        with pytest.raises(DataError, match="data set not found"):
            open_dataset(odd)


def test_a_patient_in_both_lists_is_refused(synapse: Path) -> None:
    shutil.copy(synapse / "test_vol_h5" / "case005f01.npy.h5", synapse / "test_vol_h5" / "case001f03.npy.h5")
    with (synapse / "lists" / "test_vol.txt").open("a") as stream:
        stream.write("case001f03\n")
    assert "patient case001 is in the training list (case001f02) and in the test list (case001f03)" in flawed(synapse)


def test_empty_labels_are_refused(synapse: Path, rewrite: Callable[..., Path]) -> None:
    for path in (synapse / "train_npz").iterdir():
        rewrite(path.stem, label=np.zeros(SHAPE, np.uint8))
    assert "all training labels are empty" in flawed(synapse)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": np.full((2, 20, 24), 3, np.uint8)}, "label value 3 is beyond the 3 classes (0 to 2)"),
        ({"label": np.zeros((3, 20, 24), np.uint8)}, "image shape 2x20x24 does not fit label shape 3x20x24"),
        ({"label": None}, "no array 'label'"),
        ({"image": np.zeros((2, 2, 20, 24), np.float32)}, "2 channels, the others have 1"),
    ],
)
def test_a_wrong_test_volume_is_named(synapse: Path, arrays: dict[str, Any], message: str) -> None:
    with h5py.File(synapse / "test_vol_h5" / "case005f01.npy.h5", "a") as file:
        for key, value in arrays.items():
            del file[key]
            if value is not None:
                file[key] = value
    dataset = open_dataset(str(synapse))
    with pytest.raises(DataError) as caught:
        list(dataset.volumes("test"))
    assert message in str(caught.value)
    assert "case005f01.npy.h5" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class_names: [a, a]", "'a' is there twice"),
        ("class_names: [1, 2]", "must be a list of texts"),
        ("class_names: liver", "must be a list of texts"),
        ("class_names: [a", "not YAML"),
        ("- a", "unexpected 'list'"),
        ("classes: [a, b]", "unexpected 'classes'"),
        ("class_names: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_wrong_class_names_are_explained(synapse: Path, content: str, message: str) -> None:
    (synapse / "dataset.yaml").write_text(content)
    text = flawed(synapse)
    assert message in text
    assert "dataset.yaml" in text


def test_an_unwritable_cache_is_one_line(synapse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = synapse.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(blocked / "below"))
    assert "set AUTOCOMPRESS_CACHE" in flawed(synapse)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_leaves_nothing(synapse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    dataset = open_dataset(str(synapse))

    def full(dir: Path, prefix: str) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(Path(dir) / f"{prefix}x")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(DataError, match="the disk is full"):
        dataset.slices(48)
    monkeypatch.undo()


def test_acdc(acdc: Path) -> None:
    dataset = open_dataset(str(acdc))
    assert [len(dataset.cases(split)) for split in SPLITS] == [64, 16, 20]
    assert len(dataset.patients("train")) == 32
    assert len(dataset.patients("validation")) == 8
    assert dataset.class_names == ("background", "class 1", "class 2", "class 3")
    volume = next(dataset.volumes("validation"))
    assert volume.image.shape == (len(volume.label), 1, 224, 224)
    assert volume.label.max() == 3
    assert 0.5 < volume.image.max() <= 1
