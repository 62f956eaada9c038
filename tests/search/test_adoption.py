"""A named parent: what fits is adopted with its lessons, what does not is refused in one line, early."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autocompress.bundles.manifest import seal
from autocompress.config import CompressionConfig
from autocompress.data import open_dataset
from autocompress.errors import UserError
from autocompress.hardware.records import Latency, Measurement
from autocompress.models import build
from autocompress.paths import write_json
from autocompress.search.adoption import adopt_parent, find_parent
from autocompress.search.parent import Parent, parent_folder
from autocompress.search.resolve import overrides_of, resolve

SHAPE = {"in_channels": 1, "num_classes": 9}
CONFIG = CompressionConfig(32, levels=2, width=0.125)
PRUNED = replace(CONFIG, prune_pattern="channel", prune_ratio=0.5, precision="int8")


def put_weights(folder: Path, config: CompressionConfig, **shape: int) -> Path:
    folder.mkdir()
    torch.manual_seed(1)
    network = build("dae-former", config, **{**SHAPE, **shape})
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


def put_parent(folder: Path, **changes: Any) -> Path:
    """A folder as `train_parent` leaves one."""
    put_weights(folder, CONFIG)
    values = {"config": CONFIG.to_dict(), "family": "dae-former", "seconds": 9.0, "steps": 3, **SHAPE}
    write_json(folder / "parent.json", {**values, **changes})
    return folder


def put_bundle(folder: Path, *, config: CompressionConfig = PRUNED, classes: int = 9) -> Path:
    """A bundle's manifest and weights; the model files are not read here."""
    put_weights(folder, config, num_classes=classes)
    data = (folder / "weights.safetensors").read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    other = {"sha256": "0" * 64, "size_bytes": 5}
    measurement = Measurement("onnxruntime", "1", "here", "ok", latency=Latency(1.0, 1.0, 1.0, 1.0, (1.0, 1.0), 64))
    names = [f"class {index}" for index in range(classes)]
    manifest = seal(
        {
            "name": "bundle",
            "configuration": config.to_dict(),
            "identifier": config.identifier,
            "family": "dae-former",
            "in_channels": 1,
            "classes": names,
            "metrics": {"dice": 50.0, "per_class": {}, "cases": 1, "rule": "as measured"},
            "target": "cpu",
            "models": [
                {
                    "file": "model.onnx",
                    "engine": "onnxruntime",
                    "precision": config.precision,
                    "measurements": [measurement],
                    "sample_output": "output",
                }
            ],
            "complexity": {"parameters": 1, "gmacs": 1.0},
            "size_bytes": 5,
            "provenance": {"created": "now", "dataset": "d", "dataset_fingerprint": "f"},
            "files": {"model.onnx": other, "sample.safetensors": other, "weights.safetensors": entry},
        }
    )
    manifest.save(folder)
    return folder


def test_a_trained_parent_is_found_by_its_weights(tmp_path: Path) -> None:
    folder = put_parent(tmp_path / "parent")
    found = find_parent(str(folder), "dae-former", **SHAPE)
    assert (found.folder, found.config) == (folder, CONFIG)
    assert found.digest == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def test_a_bundle_stands_for_its_float32_network(tmp_path: Path) -> None:
    found = find_parent(str(put_bundle(tmp_path / "bundle")), "dae-former", **SHAPE)
    assert found.config == replace(PRUNED, precision="fp32")


def _nothing(folder: Path) -> Path:
    return folder


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _study(folder: Path) -> Path:
    folder.mkdir()
    write_json(folder / "parent.json", {"folder": "/cache/parents/abc", "config": CONFIG.to_dict(), "steps": 3})
    return folder


def _torn_json(folder: Path) -> Path:
    (put_parent(folder) / "parent.json").write_text('{"config": ')
    return folder


def _torn_manifest(folder: Path) -> Path:
    (put_bundle(folder) / "manifest.json").write_text("{")
    return folder


def _no_weights(folder: Path) -> Path:
    (put_parent(folder) / "weights.safetensors").unlink()
    return folder


def _torn_weights(folder: Path) -> Path:
    path = put_parent(folder) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def _other_bundle_weights(folder: Path) -> Path:
    path = put_bundle(folder) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    return folder


def _not_finite(folder: Path) -> Path:
    path = put_parent(folder) / "weights.safetensors"
    weights = load_file(path)
    weights["classify.bias"][0] = torch.nan
    save_file(weights, path)
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_nothing, "does not exist"),
        (_empty, "neither a bundle (manifest.json) nor a trained parent (parent.json)"),
        (_study, "is a study; its parent network is kept in /cache/parents/abc"),
        (_torn_json, "cannot read"),
        (_torn_manifest, "is not valid JSON"),
        (lambda folder: put_parent(folder, config={"levels": 2}), "parent.json is damaged"),
        (_no_weights, "cannot read weights.safetensors (No such file or directory)"),
        (_torn_weights, "weights.safetensors is damaged"),
        (_other_bundle_weights, "checksum does not match"),
        (_not_finite, "not finite"),
        (lambda folder: put_parent(folder, config={**CONFIG.to_dict(), "width": 0.25}), "does not fit dae-former"),
        (lambda folder: put_parent(folder, family="unet"), "of the family unet, the study's is dae-former"),
        (lambda folder: put_parent(folder, in_channels=3), "has 3 input channels, the data set has 1"),
        (lambda folder: put_bundle(folder, classes=4), "has 4 classes, the data set has 9"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
    folder = make(tmp_path / "there")
    with pytest.raises(UserError) as refused:
        find_parent(str(folder), "dae-former", **SHAPE)
    text = str(refused.value)
    assert expected in text and str(folder) in text and "\n" not in text


def test_adopted_once_with_its_logits_and_maps(tmp_path: Path) -> None:
    source = put_bundle(tmp_path / "bundle")
    found = find_parent(str(source), "dae-former", **SHAPE)
    request = {
        "folder": str(tmp_path / "cache"),
        "source": str(source),
        "digest": found.digest,
        "config": found.config.to_dict(),
        "family": "dae-former",
        "data": {"name_or_path": "phantoms-tiny"},
        "threads": 1,
    }
    adopt_parent(request)
    parent = Parent.load(tmp_path / "cache")
    assert parent.config == found.config
    slices = torch.from_numpy(np.array(open_dataset("phantoms-tiny").slices(32).images[:3]))
    network = parent.network("dae-former", **SHAPE)
    with torch.no_grad():
        logits = network(slices)
    targets = parent.soft_targets()
    assert torch.allclose(targets.batch(np.arange(3)), logits, atol=2e-3)
    assert [each.maps.shape[1:] for each in targets.stages] == [(8, 8), (4, 4)]
    assert all(isinstance(each.maps, np.memmap) and each.maps.dtype == np.float16 for each in targets.stages)
    # It lies in the cache now: the source is not needed again.
    shutil.rmtree(source)
    adopt_parent(request)


def test_weights_that_change_after_the_check_are_refused(tmp_path: Path) -> None:
    source = put_parent(tmp_path / "parent")
    request = {
        "folder": str(tmp_path / "cache"),
        "source": str(source),
        "digest": "0" * 64,
        "config": CONFIG.to_dict(),
        "family": "dae-former",
        "data": {"name_or_path": "phantoms-tiny"},
        "threads": 1,
    }
    with pytest.raises(UserError, match="changed since the search began"):
        adopt_parent(request)


def _plan(tmp_path: Path, **options: Any) -> Any:
    values = {"data": "phantoms-tiny", "target": "cpu-onnxruntime", "trials": 2, **options}
    return resolve("mine", overrides=overrides_of(values), out=tmp_path / "runs")


def test_a_study_goes_on_with_its_own_parent_alone(tmp_path: Path) -> None:
    source = put_parent(tmp_path / "parent")
    digest = hashlib.sha256((source / "weights.safetensors").read_bytes()).hexdigest()
    plan = _plan(tmp_path, parent=source)
    assert plan.identity()["parent"]["digest"] == digest
    plan.folder.mkdir(parents=True)
    plan.claim("print")
    # The same weights from elsewhere are the same parent.
    moved = source.rename(tmp_path / "moved")
    _plan(tmp_path, parent=moved).claim("print")
    weights = load_file(moved / "weights.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, moved / "weights.safetensors")
    for other in ({"parent": moved}, {}, {"no_parent": True}):
        with pytest.raises(UserError, match=r"was begun with another (parent|training)"):
            _plan(tmp_path, **other).claim("print")


def test_settings_without_a_named_parent_are_what_they_were(tmp_path: Path) -> None:
    identity = _plan(tmp_path).identity()
    assert identity["parent"] == {"enabled": True, "share": 0.25, "config": "auto"}
    assert set(identity["training"]) == {
        "batch_size", "learning_rate", "weight_decay", "distill_weight", "augment", "bf16",
    }  # fmt: skip


def test_the_command_line_overrules_the_file(tmp_path: Path) -> None:
    source = put_parent(tmp_path / "parent")
    study = tmp_path / "own.yaml"
    values = {"target": "cpu-onnxruntime", "data": "phantoms-tiny"}
    study.write_text(json.dumps({**values, "parent": {"source": str(source)}}))
    assert resolve(str(study), out=tmp_path).parent["source"] == str(source)
    assert resolve(str(study), overrides=overrides_of({"no_parent": True}), out=tmp_path).parent["enabled"] is False
    study.write_text(json.dumps({**values, "parent": {"enabled": False}}))
    named = resolve(str(study), overrides=overrides_of({"parent": source}), out=tmp_path)
    assert named.parent["enabled"] is True and named.parent["source"] == str(source)


def test_contradicting_flags_are_refused() -> None:
    with pytest.raises(UserError, match="--parent and --no-parent contradict each other"):
        overrides_of({"parent": "somewhere", "no_parent": True})


def test_each_network_data_and_weight_has_its_own_place() -> None:
    key = {"digest": "a", "family": "dae-former", "config": CONFIG.to_dict(), "fingerprint": "f"}
    places = {parent_folder(key)} | {parent_folder({**key, name: "other"}) for name in key}
    assert len(places) == 5
