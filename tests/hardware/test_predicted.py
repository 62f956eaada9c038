"""A target that is not at hand: predicted and said so, refused where it will not fit, and still giving outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import TargetError
from autocompress.hardware.candidates import export_untrained
from autocompress.hardware.infer import infer
from autocompress.hardware.measure import measure
from autocompress.hardware.predicted import basis_of, find_target, predicted_target, with_predictors
from autocompress.hardware.prediction.features import graph_costs
from autocompress.hardware.prediction.fit import Sample, fit
from autocompress.hardware.prediction.roofline import Roofline
from autocompress.hardware.prediction.store import PredictorKey, save_predictor
from autocompress.hardware.targets import Target, resolve_target
from autocompress.specs.library import load_spec


@pytest.fixture(scope="module")
def nano() -> Target:
    return predicted_target(load_spec("target", "jetson-nano"))


def _measured(target: Target, config: CompressionConfig, folder: Path) -> Any:
    files = export_untrained(config, target.engines, folder, family="dae-former")
    images = np.zeros((1, 1, config.resolution, config.resolution), np.float32)
    return measure(files, target, inputs=images, config=config).measurements[0]


def test_a_jetson_that_nobody_has_is_predicted_and_says_so(nano: Target, tmp_path: Path) -> None:
    found = _measured(nano, CompressionConfig(64, 2, 0.1875), tmp_path)
    assert found.ok and not found.measured
    assert "published" in found.conditions["basis"] and "published" in basis_of(nano)
    # Embedded-ViT, Table 5: the two-level network at 64 pixels ran at 45.49 images a second; it was not fitted to.
    assert found.latency.p50 == pytest.approx(1000 / 45.49, rel=0.25)
    low, high = found.latency.p90_interval
    assert low < found.latency.p50 < high and found.latency.runs == 0


def test_what_the_paper_could_not_run_is_predicted_not_to_fit(nano: Target, tmp_path: Path) -> None:
    found = _measured(nano, CompressionConfig(224, 3, 1.0), tmp_path)
    assert found.outcome == "out_of_memory" and not found.measured
    assert "predicted to need" in found.message and "2500 MB" in found.message


def test_what_the_device_cannot_do_is_refused_as_on_the_device(nano: Target, tmp_path: Path) -> None:
    assert nano.precisions == {"fp32", "fp16"}
    assert nano.engine("tensorrt").opset == 13
    with pytest.raises(TargetError, match="has no engine 'openvino'"):
        predicted_target(load_spec("target", "jetson-nano"), engines=["openvino"])


def test_outputs_come_from_this_machine(
    nano: Target, make_model: Callable[..., Path], image: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model.onnx", opset=13)
    here = resolve_target(load_spec("target", "cpu-onnxruntime"))
    elsewhere = next(infer(model, "tensorrt", nano, [image(2)]))
    assert np.array_equal(elsewhere, next(infer(model, "onnxruntime", here, [image(2)])))


def test_a_target_that_cannot_be_used_names_the_way_out() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TargetError, match="--predict"):
        find_target(load_spec("target", "gpu"))
    assert find_target(load_spec("target", "gpu"), predict=True).predicted


def test_a_calibrated_target_is_predicted_by_what_was_measured_on_it(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    profile = load_spec("target", "cpu-onnxruntime")
    target = resolve_target(profile)
    assert with_predictors(target).predictors == {}
    costs = graph_costs(make_model(tmp_path / "model.onnx"), "fp32")
    predictor = fit([Sample(costs, 7.0)] * 4, Roofline.from_profile(), where="here")
    save_predictor(PredictorKey.of(target, target.engine("onnxruntime")), predictor)
    assert set(with_predictors(target).predictors) == {"onnxruntime"}
    predicted = predicted_target(profile)
    images = np.zeros((1, 1, 16, 16), np.float32)
    found = measure(tmp_path / "model.onnx", predicted, inputs=images).measurements[0]
    assert found.latency is not None and found.latency.p50 == pytest.approx(7.0, rel=0.05)
    assert "4 measurements" in found.conditions["basis"]
