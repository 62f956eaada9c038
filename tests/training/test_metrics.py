from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from numpy.typing import NDArray

from autocompress.data.dataset import FloatArray, LabelArray, SliceSet, Split, Volume
from autocompress.training.metrics import (
    CaseScores,
    DiceReport,
    dice_per_class,
    evaluate_volumes,
    hd95,
    score_case,
)


def one_hot(label: LabelArray, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(label.astype(np.int64)), classes).movedim(-1, 0)[None].float()


def masks(seed: int, shape: tuple[int, ...] = (6, 17, 13), classes: int = 5) -> tuple[LabelArray, LabelArray]:
    """Blocks that overlap in part; some classes are missing in one or both."""
    random = np.random.default_rng(seed)
    both = np.zeros((2, *shape), dtype=np.uint8)
    for volume in both:
        for index in range(1, classes):
            if random.random() < 0.75:
                low = [int(random.integers(0, side - 2)) for side in shape]
                volume[tuple(slice(start, start + int(random.integers(1, 9))) for start in low)] = index
    return both[0], both[1]


@pytest.mark.parametrize("seed", range(8))
def test_dice_agrees_with_monai(seed: int) -> None:
    prediction, reference = masks(seed)
    expected = compute_dice(
        one_hot(prediction, 5), one_hot(reference, 5), include_background=False, ignore_empty=False
    )[0]
    np.testing.assert_allclose(dice_per_class(prediction, reference, 5), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("spacing", [None, (9.0, 1.9, 1.9), (1.0, 0.5, 3.0)])
@pytest.mark.parametrize("seed", range(4))
def test_hd95_agrees_with_monai(seed: int, spacing: tuple[float, float, float] | None) -> None:
    prediction, reference = masks(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = compute_hausdorff_distance(
            one_hot(prediction, 5), one_hot(reference, 5), percentile=95, spacing=list(spacing) if spacing else None
        )[0]
    for index in range(1, 5):
        found = hd95(prediction == index, reference == index, spacing)
        if (prediction == index).any() and (reference == index).any():
            assert found == pytest.approx(float(expected[index - 1]), rel=1e-5)
        else:  # MONAI gives NaN or infinity here, by the way its quantile treats infinities
            assert not math.isfinite(float(expected[index - 1]))
            assert not math.isfinite(found)


@pytest.mark.parametrize("seed", range(3))
def test_hd95_agrees_with_monai_on_scattered_voxels_and_slices(seed: int) -> None:
    random = np.random.default_rng(seed)
    prediction, reference = random.random((2, 21, 30)) < 0.07
    expected = compute_hausdorff_distance(
        torch.from_numpy(prediction)[None, None].float(),
        torch.from_numpy(reference)[None, None].float(),
        include_background=True,
        percentile=95,
    )
    assert hd95(prediction, reference) == pytest.approx(float(expected[0, 0]), rel=1e-5)


def point(*where: int) -> NDArray[np.bool_]:
    mask = np.zeros((4, 10, 10), dtype=bool)
    mask[where] = True
    return mask


def test_hd95_by_hand() -> None:
    # Two voxels, 2 slices of 5 mm and 3 columns of 2 mm apart.
    assert hd95(point(0, 2, 2), point(2, 2, 5), (5, 1, 2)) == pytest.approx(math.hypot(10, 6))
    assert hd95(point(0, 2, 2), point(0, 2, 2)) == 0
    full = np.ones((4, 10, 10), dtype=bool)
    assert hd95(full, full) == 0
    # A full volume's surface is its border: the centre point is no voxel of it.
    assert hd95(point(0, 0, 0), full) > 5


def test_absent_organs() -> None:
    nothing = np.zeros((4, 10, 10), dtype=bool)
    assert math.isnan(hd95(nothing, nothing))
    assert hd95(nothing, point(1, 1, 1)) == math.inf
    assert hd95(point(1, 1, 1), nothing) == math.inf
    prediction = np.array([[[1, 1, 2]]], dtype=np.uint8)
    reference = np.array([[[1, 0, 0]]], dtype=np.uint8)
    # Class 1 overlaps by 2*1/(2+1), class 2 is invented, class 3 is absent from both.
    assert dice_per_class(prediction, reference, 4).tolist() == pytest.approx([2 / 3, 0, 1])


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="not below 3"):
        dice_per_class(np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), 3)
    with pytest.raises(ValueError, match="not below 3"):
        dice_per_class(np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8), 3)
    with pytest.raises(ValueError, match="differ in shape"):
        dice_per_class(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 3)
    with pytest.raises(ValueError, match="spacing"):
        hd95(point(1, 1, 1), point(1, 1, 1), (1, 0, 1))


def test_report_averages_over_cases_and_organs() -> None:
    cases = [
        CaseScores("a", (1.0, 0.5), (2.0, math.inf)),
        CaseScores("b", (0.8, 0.1), (4.0, math.nan)),
    ]
    report = DiceReport.from_cases(cases, ("liver", "spleen"))
    assert report.mean == pytest.approx(60)
    assert report.per_class == pytest.approx({"liver": 90, "spleen": 30})
    assert report.per_case == pytest.approx({"a": 75, "b": 45})
    assert report.hd95_mean == pytest.approx(3)
    assert report.hd95_per_class == {"liver": pytest.approx(3), "spleen": None}
    assert report.hd95_missed == 1
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["hd95"]["missed"] == 1
    assert "absent from reference and prediction counts as 100" in plain["rule"]
    with pytest.raises(ValueError, match="no case"):
        DiceReport.from_cases([], ())


class Halves:
    """Two cases of 10 slices, 40 x 30 pixels: class 1 fills the bright half."""

    name = "halves"
    class_names = ("background", "bright", "never")
    in_channels = 1
    fingerprint = "0"

    def cases(self, split: Split) -> tuple[str, ...]:
        return ("one", "two")

    def volumes(self, split: Split) -> Iterator[Volume]:
        for number, name in enumerate(self.cases(split)):
            image: FloatArray = np.zeros((10, 1, 40, 30), dtype=np.float32)
            image[:, :, :, 10 + 5 * number :] = 1
            yield Volume(name, image, (image[:, 0] > 0.5).astype(np.uint8), (5.0, 2.0, 2.0))

    def slices(self, resolution: int, label_resolution: int | None = None) -> SliceSet:
        raise AssertionError("evaluation needs no training slices")


def test_volumes_are_scored_at_their_own_resolution_in_batches() -> None:
    seen: list[tuple[int, ...]] = []

    def predict(batch: FloatArray) -> FloatArray:
        seen.append(batch.shape)
        bright = batch[:, 0] - 0.5
        return np.stack([-bright, bright, np.full_like(bright, -9)], axis=1)

    report = evaluate_volumes(predict, Halves(), "test", 20, hd95=True, batch=4)
    assert seen == [(4, 1, 20, 20), (4, 1, 20, 20), (2, 1, 20, 20)] * 2
    assert report.per_class["bright"] > 97
    assert report.per_class["never"] == 100
    assert set(report.per_case) == {"one", "two"}
    # At most one column of 2 mm off.
    assert report.hd95_per_class["bright"] is not None
    assert report.hd95_per_class["bright"] <= 2
    assert report.hd95_per_class["never"] is None
    assert report.hd95_missed == 0


def test_a_model_that_answers_nonsense_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        evaluate_volumes(lambda batch: np.repeat(batch, 2, axis=1), Halves(), "test", 16)
    with pytest.raises(ValueError, match="not finite in case one"):
        evaluate_volumes(lambda batch: np.repeat(batch, 3, axis=1) * np.float32(np.nan), Halves(), "test", 16)


def test_scores_of_a_case_without_distances() -> None:
    label = np.ones((1, 3, 3), dtype=np.uint8)
    assert score_case("a", label, label, 2) == CaseScores("a", (1.0,))
    assert "hd95" not in DiceReport.from_cases([score_case("a", label, label, 2)], ("x",)).to_dict()
