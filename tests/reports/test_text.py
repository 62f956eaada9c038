from __future__ import annotations

from dataclasses import replace

import pytest

from autocompress.reports import text
from autocompress.reports.records import StudyView


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0412, "0.041"), (0.412, "0.412"), (3.414, "3.41"), (41.24, "41.2"), (1412.4, "1,412"), (None, "–")],
)
def test_latencies_keep_three_figures(value: float | None, shown: str) -> None:
    assert text.milliseconds(value) == shown


def test_counts_and_sizes_have_units() -> None:
    assert text.count(7_840_000) == "7.84 M"
    assert text.count(912) == "912"
    assert text.size(84_300) == "84.3 kB"
    assert text.size(912) == "912 B"
    assert text.duration(59.94) == "59.9 s"
    assert text.duration(192) == "3 min 12 s"
    assert text.duration(7500) == "2 h 05 min"


def test_the_headline_names_the_trade_offs(view: StudyView) -> None:
    most, fastest, tested = text.headline(view)
    assert "trial 18" in most
    assert "(predicted)" in most
    assert "trial 3" in fastest
    assert "21.2 times as fast" in fastest  # 8.7 / 0.41
    assert "17.9 points" in fastest  # 79.1 - 61.2
    assert "0.7 points below" in tested  # (1.1 + 0.6 + 2.2 - 1.2) / 4
    near = replace(view, trials=tuple(replace(t, dice=78.5) if t.number == 12 else t for t in view.trials))
    assert "Within one point of it, 4.6 times as fast: trial 12" in text.headline(near)[1]


def test_an_infeasible_study_names_what_came_nearest(view: StudyView) -> None:
    (sentence,) = text.headline(replace(view, front=()))
    assert "No model meets the constraints (Dice at least 60, p50 at most 20 ms)" in sentence
    assert text.headline(replace(view, front=(), trials=())) == ["No trial has been judged yet."]
