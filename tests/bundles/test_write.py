from __future__ import annotations

import errno
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from autocompress.bundles import ModelFile, bundle_name, read_manifest
from autocompress.config import CompressionConfig
from autocompress.errors import BundleError, UserError

from .conftest import CLASSES, CONFIG, Parts, measured


def test_a_bundle_holds_what_it_was_given(template: Path, parts: Parts) -> None:
    manifest = json.loads((template / "manifest.json").read_text())
    assert manifest["schema"] == "autocompress-bundle/1"
    assert manifest["configuration"]["resolution"] == 32
    assert manifest["identifier"] == CONFIG.identifier
    assert manifest["classes"] == list(CLASSES)
    assert manifest["metrics"]["dice_test"] == 79.25
    assert manifest["models"][0]["measurements"][0]["conditions"] == {"threads": 2}
    assert manifest["models"][0]["measurements"][0]["measured"] is True
    assert manifest["size_bytes"] == parts.onnx.stat().st_size
    weights = load_file(template / "weights.safetensors")
    assert sum(array.size for array in weights.values()) >= manifest["complexity"]["parameters"]
    np.testing.assert_array_equal(load_file(template / "sample.safetensors")["inputs"], parts.inputs)


def test_every_file_is_listed_with_its_checksum(template: Path) -> None:
    files = json.loads((template / "manifest.json").read_text())["files"]
    found = {path.name for path in template.iterdir()} - {"manifest.json"}
    assert set(files) == found
    for name, entry in files.items():
        assert hashlib.sha256((template / name).read_bytes()).hexdigest() == entry["sha256"]


def test_the_same_bundle_again_changes_nothing(bundle: Path, parts: Parts) -> None:
    before = (bundle / "manifest.json").stat().st_mtime_ns
    later = parts.arguments["provenance"].model_copy(update={"created": "2027-01-01T00:00:00+00:00"})
    renamed = bundle.with_name("template")
    bundle.rename(renamed)
    parts.write(renamed, provenance=later)
    assert (renamed / "manifest.json").stat().st_mtime_ns == before


def test_a_different_bundle_is_never_overwritten_silently(bundle: Path, parts: Parts) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="already holds another bundle"):
        parts.write(bundle, target="jetson-nano")
    assert (bundle / "manifest.json").read_bytes() == before
    parts.write(bundle, target="jetson-nano", replace=True)
    assert read_manifest(bundle).target == "jetson-nano"
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_damaged_copy_of_the_same_bundle_is_mended(bundle: Path, parts: Parts) -> None:
    renamed = bundle.rename(bundle.with_name("template"))
    (renamed / "model.onnx").write_bytes(b"")
    parts.write(renamed)
    assert (renamed / "model.onnx").read_bytes() == parts.onnx.read_bytes()


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not a bundle"):
        parts.write(tmp_path / "holiday", replace=True)
    assert (tmp_path / "holiday" / "photo.jpg").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, parts: Parts, monkeypatch: Any) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match="No space left on device"):
        parts.write(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_deepsparse_needs_a_second_model_for_deployment(tmp_path: Path, parts: Parts) -> None:
    sparse = ModelFile(parts.onnx, [measured("deepsparse", 1.0)], parts.outputs)
    with pytest.raises(BundleError, match="evaluation only"):
        parts.write(tmp_path / "one", models=[sparse])
    plain = ModelFile(parts.onnx, [measured("onnxruntime", 1.5)], parts.outputs)
    manifest = parts.write(tmp_path / "two", models=[sparse, plain])
    assert manifest.model.engine == "deepsparse"
    assert (manifest.deployable_model.engine, manifest.deployable_model.file) == (
        "onnxruntime",
        "model-deployable.onnx",
    )
    assert "evaluation" in manifest.licences[0]
    assert "evaluation" in (tmp_path / "two" / "README.md").read_text()


def test_a_prediction_is_called_one_everywhere(tmp_path: Path, parts: Parts) -> None:
    guess = ModelFile(parts.onnx, [measured(real=False)], parts.outputs)
    name = bundle_name(CONFIG, trial=3, measured=False)
    manifest = parts.write(tmp_path / name, models=[guess])
    assert name == "trial-003-32px-L2-w0.125-depthwise-fp32-predicted"
    assert not manifest.measured
    assert "predicted, not measured" in (tmp_path / name / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_inputs": np.zeros((2, 1, 64, 64), np.float32)}, "2, 1, 64, 64"),
        ({"classes": ("background", "heart")}, "sample outputs"),
        ({"models": []}, "at least one model file"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(
    tmp_path: Path, parts: Parts, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        parts.write(tmp_path / "bundle", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_measurement_cannot_lead(tmp_path: Path, parts: Parts) -> None:
    failed = replace(measured(), outcome="crashed", latency=None, message="SIGSEGV")
    with pytest.raises(BundleError, match="successful"):
        parts.write(tmp_path / "bundle", models=[ModelFile(parts.onnx, [failed], parts.outputs)])


def test_a_condition_that_was_not_a_number_is_told_as_unknown(tmp_path: Path, parts: Parts) -> None:
    odd = replace(measured(), conditions={"temperature": float("nan")})
    parts.write(tmp_path / "bundle", models=[ModelFile(parts.onnx, [odd], parts.outputs)])
    text = (tmp_path / "bundle" / "manifest.json").read_text()
    assert "NaN" not in text
    assert read_manifest(tmp_path / "bundle").model.measurement.conditions == {"temperature": None}


def test_a_condition_that_is_not_plain_data_is_refused(tmp_path: Path, parts: Parts) -> None:
    odd = replace(measured(), conditions={"temperature": object()})
    with pytest.raises(BundleError, match="not JSON"):
        parts.write(tmp_path / "bundle", models=[ModelFile(parts.onnx, [odd], parts.outputs)])


def test_the_name_tells_the_configuration() -> None:
    config = CompressionConfig(64, width=0.5, prune_ratio=0.8, prune_pattern="unstructured", precision="int8")
    assert bundle_name(config) == "64px-L2-w0.5-depthwise-unstructured-0.8-int8"
