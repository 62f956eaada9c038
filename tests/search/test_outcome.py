"""The front and the nearest miss, by hand."""

from pathlib import Path

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement
from autocompress.search.driver import pareto_front
from autocompress.search.limits import violations
from autocompress.search.outcome import FrontMember, nearest_miss, still_on_front
from autocompress.search.records import TrialResult
from autocompress.specs.schemas import Constraints


def result(number: int, dice: float | None, p50: float, **more: object) -> TrialResult:
    latency = Latency(p50=p50, p90=2 * p50, p99=3 * p50, mean=p50, p90_interval=(p50, 3 * p50), runs=64)
    measurement = Measurement("onnxruntime", "1", "here", "ok", latency=latency, peak_memory_bytes=50_000_000)
    config = CompressionConfig(resolution=32 + 8 * number)
    state = "complete" if dice is not None else "pruned"
    return TrialResult(number, config, state, dice=dice, measurements=(measurement,), size_bytes=1_000_000, **more)


def test_front_is_what_no_other_beats_in_both() -> None:
    trials = [result(0, 70, 5), result(1, 80, 9), result(2, 69, 6), result(3, 60, 2), result(4, 80, 10)]
    assert [each.number for each in pareto_front(trials, "p50")] == [3, 0, 1]


def test_of_equals_one_stays() -> None:
    assert [each.number for each in pareto_front([result(0, 70, 5), result(1, 70, 5)], "p50")] == [0]


def test_constraints_are_excesses_over_the_limits() -> None:
    limits = Constraints(min_dice=75, max_latency_ms=8, max_memory_bytes=40_000_000, max_size_bytes=2_000_000)
    assert violations(result(0, 70, 5), limits, "p90") == {
        "min_dice": 5,
        "max_latency_ms": 2,
        "max_memory_bytes": 10_000_000,
        "max_size_bytes": -1_000_000,
    }


def test_a_member_that_is_slower_when_measured_again_leaves_the_front() -> None:
    def member(trial: int, dice: float, p50: float) -> FrontMember:
        config = CompressionConfig(resolution=64)
        return FrontMember(trial, config, dice, None, {"p50": p50}, True, "onnxruntime", 1, 1.0, 1, Path("b"))

    members = [member(0, 70, 3), member(1, 73, 4.8), member(2, 73.5, 8.3), member(3, 72, 5)]
    assert [each.trial for each in still_on_front(members, Constraints(), "p50")] == [0, 1, 2]
    assert [each.trial for each in still_on_front(members, Constraints(max_latency_ms=5), "p50")] == [0, 1]
    assert [each.trial for each in still_on_front(members, Constraints(min_dice=73), "p50")] == [1, 2]


def test_nearest_miss_names_model_distance_and_what_to_relax() -> None:
    text = nearest_miss([result(0, 60, 5), result(1, 71.26, 50), result(2, None, 900)], Constraints(min_dice=75), "p50")
    assert "trial 1" in text and "40px" in text
    assert "71.26 Dice, 3.74 below --min-dice 75" in text
    assert "--min-dice 71.2" in text
    assert "--min-dice binds, which 2 of 2 infeasible models miss; next trial 0 (32px" in text


def test_the_constraint_that_binds_is_the_one_that_most_models_miss() -> None:
    limits = Constraints(min_dice=75, max_latency_ms=8)
    misses = [result(0, 74, 5), result(1, 80, 9), result(2, 85, 12), result(3, None, 30)]
    text = nearest_miss(misses, limits, "p50")
    assert "nearest miss is trial 0" in text
    assert "--max-latency binds, which 3 of 4 infeasible models miss" in text
    assert "next trial 1 (40px" in text and "trial 3" not in text


def test_models_refused_for_latency_alone_are_a_miss_too() -> None:
    limits = Constraints(max_latency_ms=1)
    text = nearest_miss([result(0, None, 1.23), result(1, None, 4)], limits, "p50")
    assert "trial 0" in text and "(not trained)" in text and "--max-latency 1.3" in text


def test_without_any_judged_trial_the_last_reason_is_told() -> None:
    failed = TrialResult(0, CompressionConfig(resolution=64), "failed", "the worker died")
    assert "the worker died" in nearest_miss([failed], Constraints(min_dice=75), "p50")
