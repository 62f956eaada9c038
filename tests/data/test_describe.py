from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from autocompress.data.describe import contact_sheet, describe
from autocompress.data.overlay import colours
from autocompress.errors import DataError


def test_a_sound_data_set(synapse: Path) -> None:
    found = describe(str(synapse))
    assert found.problems == ()
    assert found.layout == "synapse"
    assert {name: (split.patients, split.cases, split.slices) for name, split in found.splits.items()}["test"] == (
        2,
        2,
        4,
    )
    assert sum(found.splits[name].patients for name in ("train", "validation")) == 4
    assert sum(found.splits[name].slices for name in ("train", "validation")) == 15
    assert found.sizes == {"20x24": 19}
    assert sum(entry.share for entry in found.classes) == pytest.approx(1)
    # Four rows of 10 columns less the case's shift, of 20 x 24 pixels.
    assert 4 * 6 / 480 < found.classes[1].share <= 4 * 10 / 480
    assert found.classes[2].cases == 7
    for split in found.splits.values():
        assert split.intensity is not None
        low, mean, high = split.intensity
        assert 0 <= low < mean < high <= 1
    text = found.to_text()
    assert "no problems found" in text
    assert "20x24 (19 slices)" in text
    assert json.loads(json.dumps(found.to_dict()))["splits"]["test"]["cases"] == 2


def test_every_problem_is_listed(synapse: Path, rewrite: Callable[..., Path]) -> None:
    (synapse / "dataset.yaml").write_text("class_names: [one, two]\n")
    shape = (20, 24)
    rewrite("case001f01_slice008", image=np.full(shape, 2.0, np.float32))
    rewrite("case001f01_slice009", label=np.full(shape, 7, np.uint8))
    rewrite("case001f01_slice010", label=np.zeros((20, 25), np.uint8))
    rewrite("case001f02_slice008", image=np.full(shape, np.nan, np.float32))
    (synapse / "train_npz" / "case002f01_slice009.npz").write_bytes(b"broken")
    for index in (8, 9, 10):
        rewrite(f"case003f01_slice{index:03d}", label=np.zeros(shape, np.uint8))
    rewrite("case004f01_slice008", image=np.zeros((30, 30), np.float32), label=np.zeros((30, 30), np.uint8))
    shutil.copy(synapse / "test_vol_h5" / "case005f01.npy.h5", synapse / "test_vol_h5" / "case002f02.npy.h5")
    with (synapse / "lists" / "test_vol.txt").open("a") as stream:
        stream.write("case002f02\n../x\n")
    with (synapse / "lists" / "train.txt").open("a") as stream:
        stream.write("case011f01_slice001\n")
    with h5py.File(synapse / "test_vol_h5" / "case006f01.npy.h5", "a") as file:
        file["label"][0, 0, 0] = 9
    found = describe(str(synapse))
    listed = "\n".join(found.problems)
    for message in (
        "case001f01_slice008.npz: pixel values run from 2 to 2",
        "case001f01_slice009.npz: label value 7 is beyond the 3 classes",
        "case001f01_slice010.npz: image shape 20x24 does not fit label shape 20x25",
        "case001f02_slice008.npz: the image has pixels that are NaN",
        "case002f01_slice009.npz: damaged npz file",
        "the label of case case003f01 is empty",
        "20x24 pixels, but case004f01_slice008.npz of the same case has 30x30",
        "patient case002 is in the training list",
        "the name '../x' leaves its folder",
        "case011f01_slice001.npz is missing",
        "case006f01.npy.h5: label value 9 is beyond the 3 classes",
    ):
        assert message in listed
    assert len(found.problems) == 11
    assert "11 problem(s) found" in found.to_text()
    assert json.dumps(found.to_dict(), allow_nan=False)
    contact_sheet(str(synapse), synapse / "sheet.png")
    assert (synapse / "sheet.png").stat().st_size > 1000


def test_a_class_that_is_named_but_never_there(synapse: Path) -> None:
    (synapse / "classes.txt").write_text("a\nb\nc\n")
    assert describe(str(synapse)).problems == ("class 3 (c) occurs nowhere",)


def test_nothing_to_describe(tmp_path: Path, synapse: Path) -> None:
    with pytest.raises(DataError, match="data set not found"):
        describe(str(tmp_path / "nowhere"))
    for path in [*(synapse / "train_npz").iterdir(), *(synapse / "test_vol_h5").iterdir()]:
        path.write_bytes(b"")
    found = describe(str(synapse))
    assert len(found.problems) == 17
    assert found.splits["train"].intensity is None
    assert "problem(s) found" in found.to_text()
    with pytest.raises(DataError, match="no case could be read"):
        contact_sheet(str(synapse), tmp_path / "sheet.png")


def test_the_contact_sheet_shows_every_split_and_organ(tmp_path: Path) -> None:
    contact_sheet("phantoms-tiny", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = {tuple(colour) for colour in np.asarray(sheet.convert("RGB")).reshape(-1, 3).tolist()}
        assert sheet.height > 6 * 96
    assert set(colours(9)[1:]) <= shown
    with pytest.raises(DataError, match="cannot write"):
        contact_sheet("phantoms-tiny", tmp_path / "nowhere" / "sheet.png")
