"""What is done when INT8 costs too much Dice, and in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from autocompress.search.repair import Judged, fine_tuning, repaired


def _judged(dice: float, repair: str = "") -> Judged:
    return Judged(SimpleNamespace(), [SimpleNamespace()], [SimpleNamespace(mean=dice)], repair)  # type: ignore[arg-type]


class _Remedies:
    def __init__(self, *dice: float) -> None:
        self.tried: list[str] = []
        self.steps = [lambda d=d, n=n: self._try(n, d) for n, d in enumerate(dice)]  # type: ignore[misc]

    def _try(self, number: int, dice: float) -> Judged:
        self.tried.append(str(number))
        return _judged(dice, f"remedy {number}")


def test_a_drop_of_half_a_point_is_let_be() -> None:
    remedies = _Remedies(90.0, 90.0)
    assert repaired(_judged(79.5), 80.0, remedies.steps).repair == ""
    assert remedies.tried == []


def test_the_dearer_remedy_is_tried_only_where_the_cheaper_one_was_not_enough() -> None:
    enough, too_little = _Remedies(79.8, 90.0), _Remedies(78.0, 79.9)
    assert repaired(_judged(70.0), 80.0, enough.steps).repair == "remedy 0"
    assert enough.tried == ["0"]
    assert repaired(_judged(70.0), 80.0, too_little.steps).repair == "remedy 1"
    assert too_little.tried == ["0", "1"]


def test_the_best_is_kept_where_nothing_was_enough() -> None:
    assert repaired(_judged(70.0), 80.0, _Remedies(75.0, 72.0).steps).repair == "remedy 0"
    assert repaired(_judged(70.0), 80.0, _Remedies(60.0, 65.0).steps).repair == ""


def test_a_remedy_that_fails_costs_nothing_that_was_there() -> None:
    assert repaired(_judged(70.0), 80.0, [lambda: None, lambda: _judged(79.0, "the next")]).repair == "the next"
    assert repaired(_judged(70.0), 80.0, [lambda: None]).report.mean == 70.0


def test_a_fine_tune_is_a_fifth_of_the_training_at_a_tenth_of_the_rate() -> None:
    training: dict[str, Any] = {"seconds": 30.0, "learning_rate": 2e-3, "batch_size": 16}
    assert fine_tuning(training) == {"seconds": 6.0, "learning_rate": 2e-4, "batch_size": 16}
    assert fine_tuning({"steps": 3, "learning_rate": 1e-3}) == {"steps": 1, "learning_rate": 1e-4}
