"""One real, small bundle for all tests here: built, exported and run once, then copied for each test."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from autocompress import models
from autocompress.bundles import Complexity, Metrics, ModelFile, Provenance, write_bundle
from autocompress.bundles.export import export_onnx
from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement

CONFIG = CompressionConfig(resolution=32, levels=2, width=0.125)
CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")


def measured(engine: str = "onnxruntime", p50: float = 1.5, *, real: bool = True) -> Measurement:
    latency = Latency(p50=p50, p90=1.2 * p50, p99=2 * p50, mean=1.1 * p50, p90_interval=(p50, 2 * p50), runs=64)
    return Measurement(engine, "1.26.0", "workbench", "ok", latency=latency, measured=real, conditions={"threads": 2})


@dataclass(frozen=True)
class Parts:
    """What goes into a bundle, and what its network answers."""

    arguments: dict[str, Any]
    network: torch.nn.Module
    onnx: Path
    inputs: np.ndarray[Any, Any]
    outputs: np.ndarray[Any, Any]

    def write(self, folder: Path, **changes: Any) -> Any:
        return write_bundle(folder, **{**self.arguments, **changes})


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    network = models.build("dae-former", CONFIG, in_channels=1, num_classes=len(CLASSES)).eval()
    path = folder / "network.onnx"
    export_onnx(network, path, in_channels=1, resolution=CONFIG.resolution)
    inputs = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = np.concatenate([session.run(None, {"input": one[None]})[0] for one in inputs])
    arguments = {
        "config": CONFIG,
        "family": "dae-former",
        "in_channels": 1,
        "classes": CLASSES,
        "target": "cpu",
        "models": [ModelFile(path, [measured()], outputs)],
        "state_dict": network.state_dict(),
        "sample_inputs": inputs,
        "metrics": Metrics(
            dice=81.5, per_class={"myocardium": 80.0}, cases=8, dice_test=79.25, cases_test=20, rule="mean over cases"
        ),
        "complexity": Complexity(parameters=sum(p.numel() for p in network.parameters()), gmacs=0.01),
        "provenance": Provenance(
            created="2026-01-02T03:04:05+00:00", study="s", trial=7, seed=1, dataset="acdc", dataset_fingerprint="ab12"
        ),
    }
    return Parts(arguments, network, path, inputs, outputs)


@pytest.fixture(scope="session")
def template(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "template"
    parts.write(folder)
    return folder


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own, to damage as it likes."""
    return Path(shutil.copytree(template, tmp_path / "bundle"))


@pytest.fixture
def edit(bundle: Path) -> Callable[..., None]:
    """Edits a manifest, by default as somebody would who also mends its digest and its checksums."""

    def change(edit_values: Callable[[dict[str, Any]], Any], *, reseal: bool = True) -> None:
        path = bundle / "manifest.json"
        values = json.loads(path.read_text())
        edit_values(values)
        if reseal:
            for name, entry in values["files"].items():
                if (bundle / name).is_file():
                    data = (bundle / name).read_bytes()
                    entry.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            rest = {key: value for key, value in values.items() if key != "digest"}
            text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            values["digest"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(values))

    return change
