"""Measuring and running through the agent, with the engine that is always there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.config import CompressionConfig
from autocompress.hardware.cache import LatencyCache
from autocompress.hardware.infer import EngineError, infer
from autocompress.hardware.measure import MeasurementSet, measure, ranked
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Engine, Target, resolve_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.library import load_spec


@pytest.fixture(scope="module")
def target() -> Target:
    return resolve_target(load_spec("target", "cpu-onnxruntime"))


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path / "model.onnx")


def test_a_measurement_carries_its_conditions(
    model: Path, target: Target, image: Callable[..., Any], quick: MeasureSettings, tmp_path: Path
) -> None:
    found = measure(model, target, inputs=image(4), settings=quick, turnstile=Turnstile(tmp_path / "t"))
    best = found.best
    assert best is not None
    assert best.latency is not None
    assert best.latency.runs >= 64
    assert 0 < best.latency.p50 <= best.latency.p90 <= best.latency.p99
    assert best.latency.p90_interval[0] <= best.latency.p90 <= best.latency.p90_interval[1]
    wanted = {
        "threads", "affinity", "cpu_model", "clocks_mhz", "power", "python", "foreign_load_cores", "precision",
        "temperatures_c", "host_id", "time", "warmup_runs", "attempts", "cores_used",
    }  # fmt: skip
    assert wanted <= set(best.conditions)
    assert Measurement.from_dict(best.to_dict()) == best


def test_foreign_load_is_repeated_and_then_marked(
    model: Path, target: Target, image: Callable[..., Any], quick: MeasureSettings, tmp_path: Path
) -> None:
    noisy = replace(quick, foreign_limit=-1.0, attempts=3)
    best = measure(model, target, inputs=image(), settings=noisy, turnstile=Turnstile(tmp_path / "t")).best
    assert best is not None
    if best.conditions["foreign_load_cores"] is None:
        pytest.skip("this kernel does not tell its CPU time")
    assert best.disturbed
    assert best.conditions["attempts"] == 3


def test_a_power_mode_that_somebody_changed_is_no_measurement(
    model: Path, target: Target, image: Callable[..., Any], quick: MeasureSettings, tmp_path: Path
) -> None:
    cache = LatencyCache(tmp_path / "latency")
    demanding = replace(target, power_mode="MAXN")  # as it was when the target was looked at
    (found,) = measure(
        model, demanding, inputs=image(), settings=quick, cache=cache, turnstile=Turnstile(tmp_path / "t")
    ).measurements
    assert found.outcome == "lost" and found.latency is None
    assert "the profile demands the power mode MAXN" in found.message
    # It may be set back, so it is not remembered.
    assert list((tmp_path / "latency").rglob("*.json")) == []


def test_the_cache_answers_until_it_is_told_not_to(
    model: Path,
    target: Target,
    image: Callable[..., Any],
    quick: MeasureSettings,
    tmp_path: Path,
    make_model: Callable[..., Path],
) -> None:
    cache, room = LatencyCache(tmp_path / "cache"), Turnstile(tmp_path / "t")

    def latest(path: Path = model, **more: Any) -> Measurement:
        found = measure(path, target, inputs=image(), settings=quick, cache=cache, turnstile=room, **more).best
        assert found is not None
        return found

    first = latest()
    assert "from_cache" not in first.conditions
    again = latest()
    assert again.conditions["from_cache"] is True
    assert again.latency == first.latency
    # The same network with other weights, as it is after training.
    trained = latest(make_model(tmp_path / "trained.onnx", seed=9))
    assert trained.latency == first.latency
    fresh = latest(remeasure=True)
    assert "from_cache" not in fresh.conditions
    assert latest().latency == fresh.latency


def test_measuring_inside_a_step_is_refused(
    model: Path, target: Target, image: Callable[..., Any], tmp_path: Path
) -> None:
    room = Turnstile(tmp_path / "t")
    with room.step(), pytest.raises(RuntimeError, match="inside a step"):
        measure(model, target, inputs=image(), turnstile=room)


def test_a_configuration_that_the_engine_cannot_use_is_not_tried(
    model: Path, target: Target, image: Callable[..., Any], tmp_path: Path
) -> None:
    config = CompressionConfig(64, prune_pattern="unstructured", prune_ratio=0.8)
    found = measure(model, target, inputs=image(), config=config, turnstile=Turnstile(tmp_path / "t"))
    assert found.best is None
    assert found.measurements[0].outcome == "unsupported"
    assert found.reasons == "onnxruntime: gains nothing from unstructured pruning"


def test_an_engine_without_a_file_is_left_out(target: Target, image: Callable[..., Any], tmp_path: Path) -> None:
    assert measure({}, target, inputs=image(), turnstile=Turnstile(tmp_path / "t")) == MeasurementSet(())


def test_the_fastest_comes_first_and_failures_last() -> None:
    def ran(engine: str, p50: float, p90: float) -> Measurement:
        return Measurement(engine, "1", "here", "ok", latency=Latency(p50, p90, p90, p50, (p90, p90), 64))

    failed = Measurement("deepsparse", "1", "here", "crashed", "deepsparse: SIGSEGV while compiling")
    results = [failed, ran("onnxruntime", 2.0, 2.1), ran("openvino", 1.0, 5.0)]
    assert [each.engine for each in ranked(results)] == ["openvino", "onnxruntime", "deepsparse"]
    assert [each.engine for each in ranked(results, "p90")] == ["onnxruntime", "openvino", "deepsparse"]


def test_many_inputs_in_small_chunks_come_back_in_order(model: Path, target: Target, image: Callable[..., Any]) -> None:
    arrays = [image(3), image(1), image(5)]
    whole = list(infer(model, "onnxruntime", target, arrays))
    # Each array in a process of its own.
    chunked = list(infer(model, "onnxruntime", target, iter(arrays), chunk_bytes=1))
    assert [each.shape for each in whole] == [(3, 3, 16, 16), (1, 3, 16, 16), (5, 3, 16, 16)]
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole[0][:1], whole[1])  # the same first sample


def test_nothing_in_nothing_out(model: Path, target: Target) -> None:
    assert list(infer(model, "onnxruntime", target, [])) == []


def test_running_inside_a_step_of_the_same_turnstile_does_not_wait_for_itself(
    model: Path, target: Target, image: Callable[..., Any], tmp_path: Path
) -> None:
    room = Turnstile(tmp_path / "t")
    with room.step():
        assert len(list(infer(model, "onnxruntime", target, [image()], turnstile=room))) == 1


def test_a_failure_is_an_error_with_its_outcome(model: Path, target: Target, image: Callable[..., Any]) -> None:
    import copy

    with pytest.raises(EngineError) as error:
        list(infer(model, "onnxruntime", target, [image(1, side=8)]))
    assert error.value.outcome == "unsupported"
    assert str(error.value) == "onnxruntime: the input is 1x1x8x8 but the model takes 1x1x16x16"
    # It crosses from a Ray worker to the driver, by the same means as a copy.
    copied = copy.copy(error.value)
    assert (copied.outcome, copied.engine, str(copied)) == ("unsupported", "onnxruntime", str(error.value))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="min_seconds"):
        MeasureSettings(min_seconds=3, max_seconds=1)
    with pytest.raises(ValueError, match="at least 1"):
        MeasureSettings(min_runs=0)


def test_options_reach_the_engine_and_the_record(
    model: Path, target: Target, image: Callable[..., Any], quick: MeasureSettings, tmp_path: Path
) -> None:
    engines: tuple[Engine, ...] = (replace(target.engines[0], options={"session.intra_op.allow_spinning": "0"}),)
    spared = replace(target, engines=engines)
    best = measure(model, spared, inputs=image(), settings=quick, turnstile=Turnstile(tmp_path / "t")).best
    assert best is not None
    assert best.conditions["options"] == {"session.intra_op.allow_spinning": "0"}
