"""The budget must be unambiguous, and a wrong value is named."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.errors import ConfigError
from autocompress.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "seconds and steps"),
        ({"seconds": 5, "steps": 5}, "seconds and steps"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"steps": 2.5}, "steps"),
        ({"steps": 5, "learning_rate": 0}, "learning_rate"),
        ({"steps": 5, "distill_weight": 1.5}, "distill_weight"),
        ({"steps": 5, "feature_weight": -1}, "feature_weight"),
        ({"steps": 5, "temperature": 0.5}, "temperature"),
        ({"steps": 5, "bf16": "yes"}, "bf16"),
        ({"steps": 5, "augment": "no"}, "augment"),
        ({"steps": 5, "momentum": 0.9}, "momentum"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainSettings.from_dict(values)


def test_plain_values_and_back() -> None:
    settings = TrainSettings(seconds=30, seed=3, flip_horizontal=True)
    assert TrainSettings.from_dict(settings.to_dict()) == settings
