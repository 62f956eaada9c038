"""What is learned of configurations, by other software's figures and by networks whose course is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autocompress.config import CompressionConfig
from autocompress.hardware.prediction.gaussian import GaussianProcess
from autocompress.search.forecasts import CurveForecaster
from autocompress.search.space import ConfigSpace
from autocompress.search.stopping import Known, Runner, StoppingRule, by_line, ranking
from autocompress.search.surrogate import CurveLearner, LearningCurves, LogarithmModel
from autocompress.specs.schemas import SearchSpace

SPACE = SearchSpace.from_dict(
    {
        "resolution": [32, 64, 128],
        "levels": [1, 2],
        "width": [0.125, 0.25, 0.5],
        "grouping": ["depthwise", "dense"],
        "precision": ["fp32"],
    }
)
RULE = StoppingRule((1 / 9, 1 / 3))
FIRST, SECOND = RULE.rungs


def course(config: CompressionConfig) -> tuple[float, float, float]:
    """Dice at the rungs and in the end: dense networks begin low and end a little higher than the others."""
    end = 60 + 5 * math.log2(config.resolution / 32) + 4 * config.levels + 4 * math.log2(config.width / 0.125)
    if config.grouping == "dense":
        return end - 40, end - 15, end + 2
    return end - 10, end - 4, end


def test_a_process_with_a_line_predicts_what_the_textbook_says() -> None:
    rng = np.random.default_rng(0)
    points, targets = rng.random((6, 2)), rng.standard_normal(6)
    process = GaussianProcess(
        tuple(map(tuple, points.tolist())), tuple(targets.tolist()), (0, 1), (0.7, 1.3), 0.8, 0.1, slopes=(2.0, 0.5)
    )

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        away = math.sqrt(5) * math.hypot((one[0] - other[0]) / 0.7, (one[1] - other[1]) / 1.3)
        smooth = 0.64 * (1 + away + away**2 / 3) * math.exp(-away)  # Rasmussen and Williams, 4.17
        return smooth + 4.0 * one[0] * other[0] + 0.25 * one[1] * other[1]

    new = np.array([0.3, 0.9])
    covariance = np.array([[kernel(a, b) for b in points] for a in points]) + 0.01 * np.eye(6)
    across = np.array([kernel(new, each) for each in points])
    mean, deviation = process.predict_many(new[None])
    assert mean[0] == pytest.approx(across @ np.linalg.inv(covariance) @ targets)
    variance = kernel(new, new) - across @ np.linalg.inv(covariance) @ across
    assert deviation[0] == pytest.approx(math.sqrt(variance))


def curves(stopped: float) -> tuple[ConfigSpace, LearningCurves, list[CompressionConfig]]:
    """Curves of two thirds of the space, of which a share was stopped at a rung, and the configurations left."""
    space = ConfigSpace(SPACE, lambda _: None)
    rng = np.random.default_rng(4)
    configs = [list(space)[index] for index in rng.permutation(len(space))]
    told, left = configs[: 2 * len(configs) // 3], configs[2 * len(configs) // 3 :]
    dice = np.array([course(each) for each in told]) + rng.normal(0, 0.5, (len(told), 3))
    for row in range(int(stopped * len(told))):
        dice[row, 1 + row % 2 :] = np.nan
    points, groups = space.features(told)
    learned = CurveLearner(groups).learn(points, dice)
    assert learned is not None
    return space, learned, left


@pytest.mark.parametrize("stopped", [0.0, 0.6])
def test_the_end_is_foretold_of_networks_that_nobody_tried(stopped: float) -> None:
    space, learned, left = curves(stopped)
    means, deviations = learned.predict(space.features(left)[0])
    ends = np.array([course(each)[2] for each in left])
    assert np.sqrt(np.mean((means - ends) ** 2)) < 2.5 < ends.std()
    assert np.mean(np.abs(means - ends) < 2 * deviations) > 0.8


def test_a_rung_that_was_reached_makes_the_end_more_certain() -> None:
    space, learned, left = curves(0.6)
    points, _ = space.features(left)
    ends = np.array([course(each) for each in left])
    unknown = learned.predict(points)
    seen = ends.copy()
    seen[:, 2] = np.nan
    known = learned.predict(points, seen)
    assert np.all(known[1] < unknown[1])
    finished = learned.predict(points, ends)
    assert finished[0] == pytest.approx(ends[:, 2]) and finished[1] == pytest.approx(0.0)


def test_fewer_than_three_that_finished_tell_nothing() -> None:
    points = np.arange(5.0)[:, None]
    dice = np.array([[50, 60], [52, 62], [51, np.nan], [50, np.nan], [49, np.nan]])
    assert LearningCurves.fit(points, dice, (0,)) is None
    dice[2, 1] = 61
    assert LearningCurves.fit(points, dice, (0,)) is not None


def test_a_latency_that_is_a_product_is_foretold() -> None:
    space = ConfigSpace(SPACE, lambda _: None)
    configs = list(space)
    points, groups = space.features(configs)
    latency = np.array([0.1 * (each.resolution / 32) ** 2 * each.width * each.levels for each in configs])
    told = np.random.default_rng(1).permutation(len(configs))[:12]
    mean, _ = LogarithmModel.fit(points[told], latency[told], groups).predict(points)
    assert np.max(np.abs(mean - np.log(latency))) < math.log(1.15)


def test_networks_that_begin_low_and_end_high_are_not_taken_for_bad_ones() -> None:
    space = ConfigSpace(SPACE, lambda _: None)
    by_label = {each.label: each for each in space}

    def runner(label: str, came: int) -> Runner:
        first, second, end = course(by_label[label])
        rungs = {FIRST: first, SECOND: second} if came > 1 else {FIRST: first}
        latency = 5.0 if "dense" in label else 6.0
        return Runner(by_label[label].identifier, (latency,), 0.0, rungs, end if came > 2 else None)

    runners = [
        runner(f"{pixels}px L{levels} w{width} {grouping} fp32", 3)
        for pixels, levels, width in ((32, 1, 0.25), (64, 1, 0.125), (64, 2, 0.25), (128, 1, 0.125))
        for grouping in ("depthwise", "dense")
    ]
    new = runner("128px L2 w0.25 dense fp32", 1)  # 44 at the rung, 84 in the end, which is the highest
    plain = Known.of([*runners, new], FIRST, RULE, by_line)
    curved = Known.of([*runners, new], FIRST, RULE, CurveForecaster(space))
    assert plain.expected[new.key].mean < 76
    assert curved.expected[new.key].mean == pytest.approx(84, abs=4)
    assert ranking([*runners, new], curved)[0].key == new.key
