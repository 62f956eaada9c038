from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.bundles import read_manifest
from autocompress.bundles.manifest import Manifest
from autocompress.errors import BundleError, UserError
from autocompress.hardware.records import Latency

Edit = Callable[..., None]


def test_reading_gives_typed_values(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.config.resolution == 32
    assert isinstance(manifest.model.measurement.latency, Latency)
    assert manifest.model.measurement.latency.p90 == pytest.approx(1.8)
    assert Manifest.model_validate(manifest.to_dict()) == manifest


def test_an_edited_figure_is_noticed(bundle: Path, edit: Edit) -> None:
    edit(lambda values: values["metrics"].update(dice=99.0), reseal=False)
    with pytest.raises(BundleError, match="was changed after the bundle was made"):
        read_manifest(bundle)


def test_new_line_ends_and_indentation_are_no_edit(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), indent=8).replace("\n", "\r\n").encode())
    read_manifest(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema="autocompress-bundle/2"), "'autocompress-bundle/2' is not 'autocompress-bundle/1'"),
        (lambda v: v.pop("schema"), "schema None"),
        (lambda v: v["configuration"].update(resolution=64), "identifier"),
        (lambda v: v["configuration"].update(resolution=8), "configuration: resolution 8 is outside 32 to 512"),
        (lambda v: v["metrics"].update(dice=250), "metrics.dice: .*less than or equal to 100"),
        (lambda v: v.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda v: v.pop("family"), "family: Field required"),
        (lambda v: v.update(size_bytes=1), "size_bytes 1 is not the size of model.onnx"),
        (lambda v: v["models"][0].update(engine="openvino"), "first measurement"),
        (lambda v: v["models"][0].update(file="../model.onnx"), "files lacks an entry for ../model.onnx"),
        (lambda v: v["files"].update({"../x": v["files"]["README.md"]}), "'../x' is not allowed"),
        (lambda v: v["files"].update({"..": v["files"]["README.md"]}), "'..' is not allowed"),
        (lambda v: v["files"].update({"/etc/passwd": v["files"]["README.md"]}), "'/etc/passwd' is not allowed"),
        (lambda v: v["files"].update({"a/b": v["files"]["README.md"]}), "'a/b' is not allowed"),
        (lambda v: v["files"].update({"manifest.json": v["files"]["README.md"]}), "'manifest.json' is not allowed"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(
    bundle: Path, edit: Edit, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(change)
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": NaN}', "\xff", "[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_one_line(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle)
    assert "\n" not in str(caught.value)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a folder"):
        read_manifest(tmp_path / "none")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path)


def test_a_manifest_behind_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "manifest.json").rename(tmp_path / "elsewhere.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="symbolic link"):
        read_manifest(bundle)
