from __future__ import annotations

import hashlib
import multiprocessing
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from autocompress.data import open_dataset
from autocompress.data.anatomy import (
    AORTA,
    GALLBLADDER,
    LEFT_KIDNEY,
    LIVER,
    PANCREAS,
    RIGHT_KIDNEY,
    SPLEEN,
    STOMACH,
    Phantom,
    Random,
    make_patient,
    smooth_field,
)
from autocompress.data.dataset import Dataset
from autocompress.data.phantoms import PhantomSet, make_phantoms
from autocompress.data.preprocess import to_native, to_network
from autocompress.data.synapse import SYNAPSE_CLASSES
from autocompress.errors import DataError
from autocompress.training.metrics import dice_per_class


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    return [make_patient(0, number, 12, 96) for number in range(6)]


def test_phantoms_are_the_same_on_every_machine() -> None:
    patient = make_patient(0, 3, 4, 48)
    digest = hashlib.sha256(patient.image.tobytes() + patient.label.tobytes()).hexdigest()
    assert digest[:16] == "b41fc8ecd60a089b"
    assert np.array_equal(make_patient(0, 3, 4, 48).image, patient.image)
    assert not np.array_equal(make_patient(1, 3, 4, 48).image, patient.image)
    assert not np.array_equal(make_patient(0, 4, 4, 48).image, patient.image)


def test_the_eight_organs_lie_where_they_belong(patients: list[Phantom]) -> None:
    for patient in patients:
        centre = {
            index: np.argwhere(patient.label == index).mean(axis=0)
            for index in range(1, 9)
            if (patient.label == index).any()
        }
        assert set(centre) >= set(range(1, 9)) - {GALLBLADDER}
        # Columns grow to the patient's left, rows to the back, slices to the head.
        assert centre[RIGHT_KIDNEY][2] < centre[AORTA][2] < centre[LEFT_KIDNEY][2]
        assert centre[LIVER][2] < centre[STOMACH][2] < centre[SPLEEN][2]
        assert centre[AORTA][1] > centre[PANCREAS][1] > centre[STOMACH][1]
        assert centre[LEFT_KIDNEY][0] < centre[SPLEEN][0]
        if GALLBLADDER in centre:
            assert centre[GALLBLADDER][0] < centre[LIVER][0]
            assert centre[GALLBLADDER][1] < centre[RIGHT_KIDNEY][1]


def test_organs_have_plausible_sizes_and_densities(patients: list[Phantom]) -> None:
    # Millilitres of adults, generously; the aorta's is that of the part in the picture.
    plausible = {
        AORTA: (20, 120),
        GALLBLADDER: (5, 60),
        LEFT_KIDNEY: (50, 260),
        RIGHT_KIDNEY: (50, 260),
        LIVER: (700, 2300),
        PANCREAS: (20, 120),
        SPLEEN: (40, 350),
        STOMACH: (100, 700),
    }
    for patient in patients:
        voxel = patient.spacing[0] * patient.spacing[1] * patient.spacing[2] / 1000
        hounsfield = patient.image.astype(np.float64) / 255 * 400 - 125
        density = {}
        for index, (low, high) in plausible.items():
            inside = patient.label == index
            if index != GALLBLADDER or inside.any():
                assert low < inside.sum() * voxel < high, SYNAPSE_CLASSES[index]
                density[index] = float(np.median(hounsfield[inside]))
        assert 70 < density[LIVER] < 150
        assert density[LEFT_KIDNEY] > density[LIVER]
        assert density[AORTA] > density[PANCREAS]
        if GALLBLADDER in density:
            assert -20 < density[GALLBLADDER] < 60
        assert hounsfield[:, 0].max() == -125  # air around the body


def test_patients_differ(patients: list[Phantom]) -> None:
    volumes = [float((patient.label == LIVER).sum()) for patient in patients]
    assert max(volumes) / min(volumes) > 1.15
    # Even the big liver of one patient fits that of another badly.
    overlap = [dice_per_class(one.label, two.label, 9)[LIVER - 1] for one, two in pairwise(patients)]
    assert max(overlap) < 0.93
    # One of them has no gallbladder any more.
    assert sum(not (patient.label == GALLBLADDER).any() for patient in patients) == 1


def test_small_organs_are_lost_at_low_resolution() -> None:
    patient = make_patient(0, 2, 12, 192)
    kept = {}
    for side in (32, 64, 128):
        # What a perfect network of this resolution could say: the shares of every class, shrunk and grown again.
        shares = (patient.label[:, None] == np.arange(9)[None, :, None, None]).astype(np.float32)
        kept[side] = dice_per_class(to_native(to_network(shares, side), (192, 192)), patient.label, 9)
    assert (kept[32] < kept[64]).all()
    assert (kept[64] < kept[128]).all()
    small = [AORTA - 1, GALLBLADDER - 1, PANCREAS - 1]
    assert kept[32][small].mean() < 0.88
    assert kept[32][LIVER - 1] > 0.94
    assert kept[128].mean() > 0.97


def test_the_random_numbers() -> None:
    noise = Random(0, 0).noise((40, 50, 60))
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert (Random(0, 0).noise((7,)) == Random(0, 0).noise((7,))).all()
    field = smooth_field(Random(0, 1), (12, 40, 40), (3, 4, 4))
    assert np.abs(field).max() <= 1
    assert np.abs(np.diff(field, axis=2)).max() < 0.25
    assert field.std() > 0.1


def test_the_tiny_variant(tiny_phantoms: Dataset) -> None:
    assert tiny_phantoms.class_names == SYNAPSE_CLASSES
    assert [len(tiny_phantoms.cases(split)) for split in ("train", "validation", "test")] == [3, 1, 2]  # type: ignore[arg-type]
    volumes = [*tiny_phantoms.volumes("validation"), *tiny_phantoms.volumes("test")]
    assert {volume.image.shape for volume in volumes} == {(8, 1, 64, 64)}
    assert {volume.spacing for volume in volumes} == {(27.0, 5.625, 5.625)}
    assert open_dataset("phantoms:tiny").fingerprint == tiny_phantoms.fingerprint


def _open_elsewhere(cache: str) -> str:
    os.environ["AUTOCOMPRESS_CACHE"] = cache
    return open_dataset("phantoms-tiny").fingerprint


def test_processes_that_ask_at_once_make_them_once(tmp_path: Path, tiny_phantoms: Dataset) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = set(pool.map(_open_elsewhere, [str(tmp_path)] * 3))
    assert found == {tiny_phantoms.fingerprint}
    folders = [path.name for path in (tmp_path / "phantoms").iterdir() if path.is_dir()]
    assert len(folders) == 1


def test_a_set_of_ones_own(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_phantoms(tmp_path / "mine", PhantomSet(train=2, test=1, slices=3, size=32), lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    dataset = open_dataset(str(tmp_path / "mine"))
    assert dataset.cases("test") == ("case0003",)
    assert dataset.class_names == SYNAPSE_CLASSES
    assert next(dataset.volumes("test")).spacing == (72.0, 11.25, 11.25)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="set AUTOCOMPRESS_CACHE"):
        make_phantoms(tmp_path / "file" / "x", PhantomSet(train=2, test=1, slices=2, size=32))


def test_what_was_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantoms(tmp_path / "x", PhantomSet(train=2, test=1, slices=2, size=32), interrupt)
    assert list(tmp_path.iterdir()) == []
