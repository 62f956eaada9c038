"""A bundle whose model is an exported program: written, verified, predicted with and measured like the others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from autocompress.bundles import ModelFile, load, read_manifest, verify_bundle
from autocompress.bundles.exported_program import load_exported_program, write_exported_program
from autocompress.cli import main
from autocompress.config import CompressionConfig
from autocompress.errors import UserError

from .conftest import CLASSES, CONFIG, Parts, measured


@pytest.fixture(scope="module")
def program(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "any-name"
    write_exported_program(parts.network, path, in_channels=1, resolution=CONFIG.resolution)
    return path


@pytest.fixture(scope="module")
def written(parts: Parts, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, written once."""
    run = load_exported_program(program)
    outputs = np.concatenate([run(one[None]) for one in parts.inputs])
    np.testing.assert_allclose(outputs, parts.outputs, atol=1e-4 * np.abs(parts.outputs).max())
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    parts.write(path, models=[ModelFile(program, [measured("torch")], outputs)])
    return path


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """The bundle, for each test of its own."""
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def test_its_files_and_its_readme(folder: Path, program: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.model.file, manifest.model.engine) == ("model.safetensors", "torch")
    assert (folder / "model.safetensors").read_bytes() == program.read_bytes()
    assert manifest.size_bytes == program.stat().st_size
    assert not (folder / "model.onnx").exists()
    text = (folder / "README.md").read_text()
    assert "ONNX" not in text
    assert "`model.safetensors`: 1.500 ms p50" in text


def test_the_code_in_its_readme_runs(folder: Path) -> None:
    np.save(folder / "slice.npy", np.random.default_rng(3).random((1, 50, 40), dtype=np.float32))
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    command = [sys.executable, "-c", code.group(1) + "print(labels.shape)"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "(1, 50, 40)", done.stderr


@pytest.mark.usefixtures("fast")
def test_it_passes_every_check_and_is_measured_by_torch(folder: Path) -> None:
    report = verify_bundle(folder)
    assert report.ok, report.first_failure
    told = {check.name: check for check in report.checks}
    assert "valid exported program of torch" in told["model form of model.safetensors"].detail
    assert "torch and the recorded outputs agree" in told["parity of model.safetensors"].detail
    assert told["latency of model.safetensors"].status == "passed"
    assert [each.engine for each in report.measurements] == ["torch"]


def test_labels_are_those_of_the_same_network_in_onnx(folder: Path, template: Path) -> None:
    image = np.random.default_rng(4).random((3, 70, 50), dtype=np.float32)
    labels = load(folder, threads=1).predict(image)
    assert labels.dtype == np.uint8
    assert (labels == load(template, threads=1).predict(image)).mean() > 0.999


@pytest.mark.usefixtures("fast")
@pytest.mark.slow
def test_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 60), dtype=np.uint8)).save(tmp_path / "image.png")
    assert main(["verify", str(folder), "--no-measure"]) == 0
    assert main(["predict", str(folder), str(tmp_path / "image.png"), "--out", str(tmp_path / "labels.npz")]) == 0
    assert (tmp_path / "labels.npz").exists()
    capsys.readouterr()
    assert main(["measure", str(folder), "--target", "cpu", "--engines", "torch", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["best"], found["precision"]) == ("torch", "fp32")
    assert found["measurements"][0]["conditions"]["engine_details"]["computes_in"] == "fp32"
    # Without torch there is nothing that runs it, and the line says what would.
    assert main(["measure", str(folder), "--target", "cpu-onnxruntime"]) == 2
    assert "model.safetensors is an exported program, which torch alone runs" in capsys.readouterr().err


@pytest.mark.usefixtures("fast")
def test_what_was_computed_in_16_bits_elsewhere_is_checked_here_in_float32(
    parts: Parts, program: Path, tmp_path: Path
) -> None:
    """A bundle from a GPU: no GPU is needed to see that it does what it did."""
    config = replace(CONFIG, precision="fp16")
    rounded = parts.outputs.astype(np.float16).astype(np.float32)
    assert isinstance(config, CompressionConfig)
    parts.write(
        tmp_path / "bundle", config=config, target="gpu", models=[ModelFile(program, [measured("torch")], rounded)]
    )
    report = verify_bundle(tmp_path / "bundle")
    assert report.ok, report.first_failure
    (parity,) = [check for check in report.checks if check.name.startswith("parity")]
    import torch

    if not torch.cuda.is_available():
        assert "not by torch: torch: " in parity.detail


def test_a_program_of_another_size_is_found(parts: Parts, program: Path, tmp_path: Path) -> None:
    outputs = np.zeros((2, len(CLASSES) + 1, 32, 32), np.float32)
    classes = (*CLASSES, "liver")
    parts.write(tmp_path / "bundle", classes=classes, models=[ModelFile(program, [measured("torch")], outputs)])
    failure = verify_bundle(tmp_path / "bundle", remeasure=False).first_failure
    assert failure is not None
    assert failure.name == "model form of model.safetensors"
    with pytest.raises(UserError, match="the manifest says"):
        load(tmp_path / "bundle")


def test_weights_in_the_place_of_a_program_are_found(parts: Parts, program: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(str(program)), str(plain))
    parts.write(tmp_path / "bundle", models=[ModelFile(plain, [measured("torch")], parts.outputs)])
    failure = verify_bundle(tmp_path / "bundle", remeasure=False).first_failure
    assert failure is not None
    assert "is not an exported program" in failure.detail
