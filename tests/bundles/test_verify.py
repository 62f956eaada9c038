from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from autocompress.bundles import ModelFile, VerifyReport, verify_bundle
from autocompress.hardware.targets import Target, inspect_target
from autocompress.specs import load_spec

from .conftest import Parts, measured

Edit = Callable[..., None]


@pytest.fixture(scope="module")
def target() -> Target:
    return inspect_target(load_spec("target", "cpu"), engines=["onnxruntime"])


def failure(path: Path, target: Target) -> str:
    """The first failure of a bundle that must fail, in one line."""
    report = verify_bundle(path, remeasure=False, target=target)
    assert not report.ok
    assert report.first_failure is not None
    text = f"{report.first_failure.name}: {report.first_failure.detail}"
    assert "\n" not in text
    return text


def statuses(report: VerifyReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def test_a_fresh_bundle_passes_every_check_and_is_measured(template: Path) -> None:
    report = verify_bundle(template)
    assert statuses(report) == {
        "manifest": "passed",
        "files": "passed",
        "model form of model.onnx": "passed",
        "sample": "passed",
        "weights": "passed",
        "weights against model": "passed",
        "parity of model.onnx": "passed",
        "latency of model.onnx": "passed",
    }
    (measurement,) = report.measurements
    assert measurement.latency is not None
    assert measurement.latency.runs >= 64
    told = report.checks[-1].detail
    assert "1.500 ms measured in the manifest" in told
    assert "another machine" in told  # the manifest's machine is "workbench"
    assert f"{measurement.latency.p50 / 1.5:.2f} times" in told


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "sample.safetensors", "README.md"])
def test_one_flipped_bit_is_found(bundle: Path, target: Target, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) * 2 // 3] ^= 4
    (bundle / name).write_bytes(data)
    assert failure(bundle, target).startswith(f"files: {bundle / name} was changed")


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "README.md"])
def test_a_missing_file_is_found(bundle: Path, target: Target, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name} is missing" in failure(bundle, target)


def test_a_stray_file_is_found(bundle: Path, target: Target) -> None:
    (bundle / "model.onnx.data").write_bytes(b"")
    assert "model.onnx.data does not belong to the bundle" in failure(bundle, target)


def test_a_link_out_of_the_bundle_is_found(bundle: Path, target: Target, tmp_path: Path) -> None:
    (bundle / "README.md").rename(tmp_path / "README.md")
    (bundle / "README.md").symlink_to(tmp_path / "README.md")
    assert "symbolic link" in failure(bundle, target)


def test_a_path_out_of_the_bundle_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    edit(lambda values: values["files"].update({"../x": values["files"]["README.md"]}))
    assert "'../x' is not allowed" in failure(bundle, target)


def test_an_edited_manifest_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    edit(lambda values: values["metrics"].update(dice=99.9), reseal=False)
    assert failure(bundle, target).startswith("manifest: ")


def test_a_future_schema_is_refused(bundle: Path, target: Target, edit: Edit) -> None:
    edit(lambda values: values.update(schema="autocompress-bundle/2"))
    assert "autocompress-bundle/2" in failure(bundle, target)


# From here on, whoever changed the bundle mended its checksums too: the content itself must give them away.


def test_a_truncated_model_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    data = (bundle / "model.onnx").read_bytes()[:9000]
    (bundle / "model.onnx").write_bytes(data)
    edit(lambda values: values.update(size_bytes=len(data)))
    assert "not a valid ONNX model" in failure(bundle, target)


def test_a_model_that_reaches_for_other_files_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    model = onnx.load(bundle / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    edit(lambda values: values.update(size_bytes=(bundle / "model.onnx").stat().st_size))
    assert "in another file" in failure(bundle, target)


def test_weights_of_another_network_are_found(bundle: Path, target: Target, edit: Edit) -> None:
    weights = load_file(bundle / "weights.safetensors")
    name = max(weights, key=lambda key: weights[key].size)
    weights[name] = np.zeros((3, 3), np.float32)
    save_file(weights, bundle / "weights.safetensors")
    edit(lambda values: None)
    assert failure(bundle, target).startswith("weights: ")


def test_other_weights_of_the_same_shape_are_found(bundle: Path, target: Target, edit: Edit) -> None:
    weights = load_file(bundle / "weights.safetensors")
    save_file(
        {name: np.ascontiguousarray(array * 1.1) for name, array in weights.items()}, bundle / "weights.safetensors"
    )
    edit(lambda values: None)
    assert failure(bundle, target).startswith("weights against model: ")


def test_weights_that_are_no_safetensors_are_found(bundle: Path, target: Target, edit: Edit) -> None:
    (bundle / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    edit(lambda values: None)
    assert "as safetensors" in failure(bundle, target)


def test_another_parameter_count_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    edit(lambda values: values["complexity"].update(parameters=1234))
    assert "the manifest says 1234" in failure(bundle, target)


def test_outputs_that_were_not_those_of_the_model_are_found(bundle: Path, target: Target, edit: Edit) -> None:
    sample = load_file(bundle / "sample.safetensors")
    sample["outputs.model.onnx"] = sample["outputs.model.onnx"] + np.float32(0.1)
    save_file(sample, bundle / "sample.safetensors")
    edit(lambda values: None)
    assert "disagree" in failure(bundle, target)


def test_a_sample_of_another_shape_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    sample = load_file(bundle / "sample.safetensors")
    sample["inputs"] = sample["inputs"][:1]
    save_file(sample, bundle / "sample.safetensors")
    edit(lambda values: None)
    assert failure(bundle, target).startswith("sample: ")


def test_a_configuration_of_another_resolution_is_found(bundle: Path, target: Target, edit: Edit) -> None:
    def change(values: dict[str, Any]) -> None:
        from autocompress.config import CompressionConfig

        values["configuration"]["resolution"] = 64
        values["identifier"] = CompressionConfig.from_dict(values["configuration"]).identifier

    edit(change)
    assert failure(bundle, target).startswith("model form")


def test_an_engine_that_is_not_here_is_told_and_another_one_checks(
    tmp_path: Path, parts: Parts, target: Target
) -> None:
    exotic = replace(measured(), engine="tensorrt")
    parts.write(tmp_path / "bundle", models=[ModelFile(parts.onnx, [exotic], parts.outputs)], target="my-board")
    report = verify_bundle(tmp_path / "bundle", target=target)
    assert report.ok
    assert statuses(report)["parity of model.onnx"] == "passed"
    assert "not by tensorrt" in next(c.detail for c in report.checks if c.name == "parity of model.onnx")
    assert statuses(report)["latency of model.onnx"] == "skipped"


def test_reduced_precision_is_judged_by_classes(tmp_path: Path, parts: Parts, target: Target) -> None:
    """Outputs that are off by more than float32's rounding pass for int8 as long as the classes stay."""
    from autocompress.config import CompressionConfig

    noisy = parts.outputs * np.float32(1.02)
    config = CompressionConfig(32, 2, 0.125, precision="int8")
    parts.write(tmp_path / "bundle", config=config, models=[ModelFile(parts.onnx, [measured()], noisy)])
    report = verify_bundle(tmp_path / "bundle", remeasure=False, target=target)
    assert report.ok, report.first_failure
    assert "100.00 % of the pixels" in report.checks[-1].detail


def test_the_report_is_plain_data(template: Path, target: Target) -> None:
    values = verify_bundle(template, remeasure=False, target=target).to_dict()
    assert values["ok"] is True
    assert values["measurements"] == []
    assert {check["name"] for check in values["checks"]} >= {"manifest", "files", "weights"}
