"""How the wall time is shared out, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.hardware.records import Latency, Measurement
from autocompress.search.budget import ConfirmCost, confirm_cost, longer_seconds, needed_seconds
from autocompress.search.records import Rung, TrialResult
from autocompress.search.resolve import front_of, overrides_of


def result(**seconds: float) -> TrialResult:
    config = CompressionConfig(resolution=64)
    rungs = (Rung(1 / 9, 50, 3), Rung(1 / 3, 60, 10))
    return TrialResult(0, config, "complete", dice=70, seconds=seconds, rungs=rungs)


def test_measurements_of_members_do_not_overlap_the_rest_does() -> None:
    cost = ConfirmCost(alone=4.0, shared=3.0, judge=2.0)
    assert cost.of(0, 2) == 0
    # Two to begin and end, six times 4 s alone, three rounds of 3 s on two workers.
    assert cost.of(6, 2) == pytest.approx(2 + 24 + 9)


def test_a_member_costs_what_trials_took_for_the_same() -> None:
    done = [result(measure=4.0, evaluate=3.0, export=2.0, other=0.5, train=30.0)] * 3
    cost = confirm_cost(done, test_cases=2.0)
    assert cost.alone == pytest.approx(4.0 * 1.3)
    # Exported twice, 1 s each; evaluated three times, at two rungs and in the end, 1 s each; twice as many test
    # volumes, and HD95 on them; 4 s for the bundle.
    assert cost.shared == pytest.approx(4.0 + 1.0 + 1.0 * 2 * 1.5)
    assert cost.judge == pytest.approx(1.0 + 1.0)
    assert confirm_cost([], 1.0).of(1, 1) > 5


def test_a_measurement_from_the_cache_costs_what_it_took_when_it_was_made() -> None:
    latency = Latency(1.0, 1.0, 1.0, 1.0, (1.0, 1.0), 64)
    phases = {"compiling": 1.5, "timing": 6.5}
    measured = Measurement("openvino", "1", "here", "ok", latency=latency, conditions={"phases": phases})
    other = replace(measured, engine="onnxruntime", conditions={"phases": {"timing": 60.0}})
    found = replace(result(measure=0.1), measurements=(measured, other))  # the first is the chosen one
    assert confirm_cost([found], test_cases=1.0).alone == pytest.approx(8.0 * 1.3)


def test_members_are_trained_longer_with_what_is_left() -> None:
    cost = ConfirmCost(alone=4.0, shared=3.0, judge=2.0)
    # 60 s are left, 35 are needed: 0.9 of 25 s over three rounds, less 2 s to judge each.
    assert longer_seconds(cost, 6, 2, left=60.0, trial_seconds=30.0) == pytest.approx(22.5 / 3 - 2, abs=0.05)
    assert longer_seconds(cost, 6, 2, left=40.0, trial_seconds=30.0) == 0
    assert longer_seconds(cost, 1, 2, left=900.0, trial_seconds=30.0) == 120.0
    assert longer_seconds(cost, 6, 2, left=None, trial_seconds=30.0) == 15.0
    assert longer_seconds(cost, 6, 2, left=None, trial_seconds=4.0) == 0


def test_the_smallest_budget() -> None:
    # A quarter for the parent and 6 % for the confirmation leave 69 %.
    assert needed_seconds(5.0, 13.0, shares=0.31) == 27  # 18 / 0.69 = 26.1


def test_a_warm_start_takes_another_studys_front(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(UserError, match="no study 'other'"):
        front_of("other", tmp_path)
    (folder / "study.json").write_text("{}")
    with pytest.raises(UserError, match="has no front to start from"):
        front_of("other", tmp_path)
    config = CompressionConfig(resolution=64, width=0.25)
    (folder / "front.json").write_text(json.dumps({"front": [{"config": config.to_dict()}]}))
    assert front_of("other", tmp_path) == front_of(str(folder), tmp_path / "elsewhere") == (config,)
    (folder / "front.json").write_text('{"front": [{"config": {"resolution": 1}}]}')
    with pytest.raises(UserError, match="is damaged"):
        front_of("other", tmp_path)
    assert overrides_of({"warm_start": "other", "no_stopping": True}) == {
        "warm_start": "other",
        "stopping.enabled": False,
    }
