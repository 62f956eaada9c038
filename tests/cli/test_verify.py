from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autocompress.cli import main

from ..bundles.conftest import Parts, parts, template

__all__ = ["parts", "template"]


def test_good_bundles_pass(template: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(template), "--no-measure"]) == 0
    told = capsys.readouterr().out
    assert "parity of model.onnx" in told
    assert "FAILED" not in told
    assert "latency" not in told


def test_json_is_one_object_a_line(template: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(template), str(template), "--no-measure", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["ok"] for line in lines] == [True, True]
    assert lines[0]["checks"][0] == {
        "name": "manifest",
        "status": "passed",
        "detail": lines[0]["checks"][0]["detail"],
    }


def test_the_first_failure_is_one_line_and_exit_code_2(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(template, tmp_path / "broken"))
    (broken / "weights.safetensors").unlink()
    assert main(["verify", str(broken), str(template), str(tmp_path / "none"), "--no-measure"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "broken failed verification: files:" in line
    assert "weights.safetensors is missing" in line
    assert "1 more" in line
    assert "parity of model.onnx" in captured.out  # the good one was checked all the same


def test_no_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert json.loads(captured.out.splitlines()[0])["ok"] is False


def test_the_parts_are_those_of_the_bundle_tests(parts: Parts) -> None:
    assert parts.onnx.is_file()
