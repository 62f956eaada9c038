"""Dice and 95 % Hausdorff distance of whole volumes at their own resolution.

The rules for organs that are absent, which decide small organs' figures:

* Dice: absent from the reference and from the prediction counts as 1, absent from one of them as 0. MONAI does so
  with ``ignore_empty=False``. The code published with TransUNet differs (an organ that is predicted but absent from
  the reference counts there as 1, one absent from both as 0), so figures of papers built on it can differ by a few
  points in the gallbladder.
* HD95: absent from both has no distance (NaN), absent from one of them is infinitely far. Both are left out of
  means, and the number of organs left out is reported beside the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.data.dataset import Dataset, FloatArray, LabelArray, Split
from autocompress.data.preprocess import to_native, to_network

Predict = Callable[[FloatArray], FloatArray]

DICE_RULE = "organ absent from reference and prediction counts as 100, absent from one of them as 0"
HD95_RULE = "larger of the two directed 95 % distances, in mm; organs absent from reference or prediction left out"


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case, one value per class from class 1 on.

    Attributes:
        case: name of the case.
        dice: 0..1.
        hd95: millimetres, NaN or infinite as the module's rules say; empty where it was not asked for.
    """

    case: str
    dice: tuple[float, ...]
    hd95: tuple[float, ...] = ()


@dataclass(frozen=True)
class DiceReport:
    """Scores of a split.

    Attributes:
        mean: mean over cases and classes (background left out), 0..100.
        per_class: mean over cases, 0..100, by class name.
        per_case: mean over classes, 0..100, by case name.
        cases: the scores that the means are made of.
        class_names: names of the classes from class 1 on, in the order of `CaseScores`.
        rule: how absent organs were counted.
    """

    mean: float
    per_class: dict[str, float]
    per_case: dict[str, float]
    cases: tuple[CaseScores, ...]
    class_names: tuple[str, ...]
    rule: str = DICE_RULE

    @classmethod
    def from_cases(cls, cases: Sequence[CaseScores], class_names: Sequence[str]) -> DiceReport:
        """Average scores; ``class_names`` leaves the background out."""
        if not cases:
            raise ValueError("no case to average")
        table = 100 * np.array([case.dice for case in cases], dtype=np.float64)
        return cls(
            mean=float(table.mean()),
            per_class={name: float(value) for name, value in zip(class_names, table.mean(axis=0), strict=True)},
            per_case={case.case: float(value) for case, value in zip(cases, table.mean(axis=1), strict=True)},
            cases=tuple(cases),
            class_names=tuple(class_names),
        )

    @property
    def hd95_per_class(self) -> dict[str, float | None]:
        """Mean HD95 in mm over the cases where it is finite, by class name; None where there is none."""
        return {name: _finite_mean(values) for name, values in self._hd95_columns().items()}

    @property
    def hd95_mean(self) -> float | None:
        """Mean HD95 in mm over all finite distances; None where there is none."""
        return _finite_mean([value for values in self._hd95_columns().values() for value in values])

    @property
    def hd95_missed(self) -> int:
        """How many organs had no finite distance because they were absent from one of reference and prediction."""
        return sum(math.isinf(value) for values in self._hd95_columns().values() for value in values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: distances that are NaN or infinite become null."""
        result: dict[str, Any] = {
            "mean": self.mean,
            "per_class": self.per_class,
            "per_case": self.per_case,
            "rule": self.rule,
        }
        if self.cases[0].hd95:
            result["hd95"] = {
                "mean": self.hd95_mean,
                "per_class": self.hd95_per_class,
                "missed": self.hd95_missed,
                "rule": HD95_RULE,
            }
        return result

    def _hd95_columns(self) -> dict[str, list[float]]:
        if not self.cases[0].hd95:
            return {}
        return {name: [case.hd95[index] for case in self.cases] for index, name in enumerate(self.class_names)}


def dice_per_class(prediction: LabelArray, reference: LabelArray, num_classes: int) -> NDArray[np.float64]:
    """Dice of every class but the background.

    Args:
        prediction, reference: class indices below ``num_classes``, of one shape.
        num_classes: number of classes with the background.

    Returns:
        num_classes - 1 values in 0..1; absent organs as the module's rules say.
    """
    _check_shapes(prediction, reference)
    pairs = reference.ravel().astype(np.int64) * num_classes + prediction.ravel()
    table = np.bincount(pairs, minlength=num_classes * num_classes)
    if table.size != num_classes**2 or int(prediction.max(initial=0)) >= num_classes:
        raise ValueError(f"a class index is not below {num_classes}")
    table = table.reshape(num_classes, num_classes)
    both = np.diag(table)[1:].astype(np.float64)
    total = (table.sum(axis=0) + table.sum(axis=1))[1:].astype(np.float64)
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def hd95(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float] | None = None) -> float:
    """Symmetric 95 % Hausdorff distance between the surfaces of two masks, as MONAI computes it.

    A surface voxel is a voxel of the mask with a face neighbour outside it; the volume's border counts as outside.
    Of the two directed distances' 95th percentiles (linear interpolation), the larger one is returned.

    Args:
        prediction, reference: masks of one shape, two or three axes.
        spacing: size of a voxel along each axis in millimetres; ones by default.

    Returns:
        Millimetres; NaN where both masks are empty, infinity where one of them is.
    """
    from scipy.spatial import cKDTree

    _check_shapes(prediction, reference)
    if not prediction.any() or not reference.any():
        return math.inf if prediction.any() or reference.any() else math.nan
    scale = np.ones(prediction.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if scale.shape != (prediction.ndim,) or not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"spacing {spacing!r} is not one positive number per axis")
    points = [_surface(np.asarray(mask, dtype=bool)) * scale for mask in (prediction, reference)]
    directed = (cKDTree(points[1]).query(points[0])[0], cKDTree(points[0]).query(points[1])[0])
    return float(max(np.quantile(distances, 0.95) for distances in directed))


def score_case(
    case: str,
    prediction: LabelArray,
    reference: LabelArray,
    num_classes: int,
    *,
    spacing: Sequence[float] | None = None,
    with_hd95: bool = False,
) -> CaseScores:
    """Scores of one volume's label map (see `dice_per_class` and `hd95`)."""
    dice = tuple(float(value) for value in dice_per_class(prediction, reference, num_classes))
    if not with_hd95:
        return CaseScores(case, dice)
    distances = tuple(hd95(prediction == index, reference == index, spacing) for index in range(1, num_classes))
    return CaseScores(case, dice, distances)


def evaluate_volumes(
    predict: Predict,
    dataset: Dataset,
    split: Split,
    resolution: int,
    *,
    hd95: bool = False,
    batch: int = 16,
) -> DiceReport:
    """Segment every volume of a split slice by slice and score it at its own resolution.

    One volume is in memory at a time, and ``batch`` slices of network input.

    Args:
        predict: maps S x C x R x R float32 in 0..1 to logits S x K x R x R, S being at most ``batch``.
        dataset: gives the volumes.
        split: whose volumes.
        resolution: R, the side of the network input in pixels.
        hd95: also compute HD95, which takes longer than Dice.
        batch: slices given to ``predict`` at once.

    Raises:
        DataError: a volume cannot be read.
        ValueError: the logits have a wrong shape or are not finite.
    """
    num_classes = len(dataset.class_names)
    scores: list[CaseScores] = []
    for volume in dataset.volumes(split):
        labels = np.empty_like(volume.label)
        for start in range(0, len(volume.image), batch):
            part = to_network(volume.image[start : start + batch], resolution)
            logits = np.asarray(predict(part))
            if logits.ndim != 4 or logits.shape[:2] != (len(part), num_classes):
                raise ValueError(
                    f"the model gave logits of shape {logits.shape} for input {part.shape} and {num_classes} classes"
                )
            if not np.isfinite(logits).all():
                raise ValueError(f"the model gave logits that are not finite in case {volume.case}")
            height, width = volume.label.shape[1:]
            labels[start : start + batch] = to_native(logits, (height, width))
        scores.append(
            score_case(volume.case, labels, volume.label, num_classes, spacing=volume.spacing, with_hd95=hd95)
        )
    return DiceReport.from_cases(scores, dataset.class_names[1:])


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Coordinates of the mask's surface voxels, points x axes."""
    from scipy.ndimage import binary_erosion

    # Erosion within the bounding box gives the same surface and spares the empty rest.
    occupied = [np.flatnonzero(mask.any(axis=tuple(set(range(mask.ndim)) - {axis}))) for axis in range(mask.ndim)]
    box = tuple(slice(int(where[0]), int(where[-1]) + 1) for where in occupied)
    part = mask[box]
    edge = part ^ binary_erosion(part)
    corner = [where[0] for where in occupied]
    return np.asarray(np.argwhere(edge) + np.array(corner), dtype=np.float64)


def _check_shapes(prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")


def _finite_mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None
