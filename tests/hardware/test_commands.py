"""``autocompress measure`` and ``autocompress targets``: what is printed, and one line for each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.cli import main

CPU = ("--target", "cpu-onnxruntime")


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong command gets."""
    assert main(["measure", *map(str, arguments)]) == 2
    output = capsys.readouterr()
    lines = output.err.strip().splitlines()
    assert len(lines) == 1
    assert output.out == ""
    return lines[0]


@pytest.mark.usefixtures("fast")
def test_a_model_is_measured_and_the_second_time_remembered(
    tmp_path: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "m.onnx")
    assert main(["measure", str(model), *CPU, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["target"], first["best"], first["precision"]) == ("cpu-onnxruntime", "onnxruntime", "fp32")
    assert first["measurements"][0]["measured"] is True
    assert first["measurements"][0]["latency"]["runs"] >= 64
    assert main(["measure", str(model), *CPU, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["measurements"][0]["latency"] == first["measurements"][0]["latency"]
    assert main(["measure", str(model), *CPU, "--remeasure"]) == 0
    table = capsys.readouterr().out
    assert "onnxruntime" in table
    assert "p90" in table


@pytest.mark.usefixtures("fast")
def test_a_configuration_is_built_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"resolution": 32, "width": 0.125}))
    assert main(["measure", str(path), *CPU, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["resolution"] == 32
    assert found["best"] == "onnxruntime"


def test_mistakes_get_one_line(
    tmp_path: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "m.onnx")
    other_size = tmp_path / "x.npy"
    np.save(other_size, np.zeros((1, 1, 8, 8), dtype=np.float32))
    no_image = tmp_path / "y.npy"
    np.save(no_image, np.zeros(3))
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    (tmp_path / "bad.json").write_text('{"resolution": 64, "depth": 2}')
    (tmp_path / "sparse.json").write_text('{"resolution": 64, "prune_pattern": "unstructured", "prune_ratio": 0.8}')
    (tmp_path / "empty.yaml").write_text("device: cpu\nengines: []\n")
    (tmp_path / "many.yaml").write_text("device: cpu\nengines: [{name: onnxruntime, threads: 1000}]\n")
    unknown = make_model(tmp_path / "unknown.onnx", operator="Frobnicate")

    def line(*arguments: object) -> str:
        return mistake(capsys, *arguments)

    assert "no such file" in line(tmp_path / "nothing.onnx")
    assert "is not an ONNX file" in line(tmp_path / "bad.onnx", *CPU)
    assert "unknown configuration field 'depth'" in line(tmp_path / "bad.json", *CPU)
    assert "gains nothing from unstructured pruning" in line(tmp_path / "sparse.json", *CPU)
    assert "the input is 1x1x8x8 but the model takes 1x1x16x16" in line(model, *CPU, "--input", other_size)
    assert "must be an array N x C x R x R" in line(model, *CPU, "--input", no_image)
    assert "has the operator Frobnicate" in line(unknown, *CPU)
    assert "unknown target 'toaster'" in line(model, "--target", "toaster")
    assert "has no engine 'abacus'" in line(model, "--engines", "abacus")
    assert "engines" in line(model, "--target", tmp_path / "empty.yaml")
    assert "asks for 1000 threads" in line(model, "--target", tmp_path / "many.yaml")
    assert "asks for 1000 threads" in line(model, *CPU, "--threads", 1000)
    assert "--threads 0" in line(model, *CPU, "--threads", 0)
    assert "m.json" in line(tmp_path / "m.json", *CPU)


def test_no_pickle_is_read(tmp_path: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    trap = tmp_path / "trap.npy"
    np.save(trap, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "cannot be read" in mistake(capsys, make_model(tmp_path / "m.onnx"), *CPU, "--input", trap)


def test_targets_are_told_with_reasons_and_the_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "cpu-onnxruntime", "cpu", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in rows] == ["cpu-onnxruntime", "cpu"]
    assert rows[0]["usable"] is True
    assert rows[0]["engines"][0]["name"] == "onnxruntime"
    (sparse,) = [each for each in rows[1]["unusable"] if each["name"] == "deepsparse"]
    assert sparse["remedy"] == "--engines deepsparse"
    assert main(["targets", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "evaluation in development and testing" in " ".join(table.split())


def test_a_wrong_profile_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hw_profiles").mkdir()
    (tmp_path / "hw_profiles" / "broken.yaml").write_text("device: abacus\n")
    monkeypatch.chdir(tmp_path)
    assert main(["targets", "--json"]) == 0
    rows = {row["target"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["broken"]["usable"] is False
    assert "abacus" in rows["broken"]["problem"]
    assert rows["cpu"]["usable"] is True
