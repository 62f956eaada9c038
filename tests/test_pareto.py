"""Which of several no other one beats, by hand."""

from __future__ import annotations

from autocompress.pareto import non_dominated


def front(*costs: tuple[float, ...]) -> list[int]:
    return non_dominated(range(len(costs)), lambda index: costs[index])


def test_two_costs_make_a_staircase() -> None:
    assert front((5, 30), (9, 20), (6, 31), (2, 40), (10, 20)) == [3, 0, 1]


def test_with_a_third_cost_one_stays_that_two_would_remove() -> None:
    # The second is slower on the first target and less accurate, and the fastest on the second target.
    assert front((5, 8, 20), (6, 3, 25), (7, 9, 21)) == [0, 1]


def test_of_equals_the_first_stays() -> None:
    assert front((1, 1), (1, 1)) == [0]
    assert front() == []
