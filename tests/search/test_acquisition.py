"""Expected growth of hypervolumes that are known by hand, or by drawing."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.acquisition import expected_improvement


def grown(front: list[list[float]], gains: list[list[float]], deviation: float = 0.0) -> np.ndarray:
    points = np.array(gains)
    known = np.array(front).reshape(-1, points.shape[1])
    return expected_improvement(known, points, np.full_like(points, deviation), seed=3)


def test_areas_by_hand() -> None:
    # Beside (1, 4) and (4, 1), (2, 2) adds the square from (1, 1) to itself, (5, 5) all of 25 but the 7 that are there.
    found = grown([[1, 4], [4, 1]], [[2, 2], [5, 5], [5, 0.5], [1, 4], [-1, 9], [0.5, 3]])
    assert found == pytest.approx([1, 18, 0.5, 0, 0, 0], abs=1e-9)
    assert grown([], [[2, 3]]) == pytest.approx([6])
    assert grown([[-1, 5], [2, 2], [1, 1]], [[3, 1]]) == pytest.approx([1])  # what gains nothing, or is beaten


def test_an_expectation_is_the_mean_of_what_may_come() -> None:
    front, mean, deviation = [[1.0, 4.0], [2.5, 2.0], [4.0, 1.0]], np.array([[2.0, 2.5]]), np.array([[0.8, 1.1]])
    drawn = np.random.default_rng(0).normal(mean, deviation, (40_000, 2))
    mean_of_all = grown(front, drawn.tolist()).mean()
    assert expected_improvement(np.array(front), mean, deviation, seed=0)[0] == pytest.approx(mean_of_all, rel=0.03)


def test_volumes_by_hand() -> None:
    cube, flat = grown([], [[2, 2, 2], [4, 4, 1]])
    assert flat / cube == pytest.approx(2, rel=0.2)
    # Two unit cubes of the eight are there already.
    some, all_of_it = grown([[2, 1, 1]], [[2, 2, 2], [0.1, 0.1, 0.1]]), grown([], [[2, 2, 2]])
    assert some[0] / all_of_it[0] == pytest.approx(6 / 8, rel=0.1) and some[1] == 0.0


@pytest.mark.parametrize("objectives", [2, 3])
def test_what_is_uncertain_may_add_something_where_its_mean_does_not(objectives: int) -> None:
    front, point = [objectives * [2.0]], [objectives * [1.9]]
    assert grown(front, point)[0] == pytest.approx(0.0, abs=1e-9)
    assert grown(front, point, deviation=0.5)[0] > 0.001
