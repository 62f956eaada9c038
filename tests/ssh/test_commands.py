"""What a user types with --host: measure, deploy, predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from autocompress import load
from autocompress.cli import main
from autocompress.hardware import measure as module
from autocompress.hardware.settings import MeasureSettings
from tests.bundles.conftest import Parts, parts  # noqa: F401 (a fixture)
from tests.ssh.boards import Board, make_client, open_board


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest protocol in place of a board's."""
    settings = MeasureSettings(
        min_seconds=0.0, max_seconds=0.05, warmup_seconds=0.05, foreign_limit=1e9, agreement=None
    )
    monkeypatch.setattr(module, "_default_settings", lambda _: settings)


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A board with the stand-in for trtexec 10.3, which reads the opset of the bundle."""
    with open_board(tmp_path / "board", trtexec="10.3.0") as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        yield board
        assert board.sshd.wait_idle() == []


@pytest.fixture
def profile(tmp_path: Path, orin: Board) -> Path:
    values = {
        "host": {"kind": "ssh"},
        "device": "tensorrt-gpu",
        "engines": [
            {
                "name": "tensorrt",
                "precisions": ["fp32", "fp16", "int8"],
                "opset": 17,
                "options": {"api": "trtexec", "trtexec": str(orin.trtexec)},
            },
            {"name": "onnxruntime", "device": "cpu", "fallback": True},
        ],
    }
    path = tmp_path / "orin.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def bundle(tmp_path: Path, parts: Parts) -> Path:  # noqa: F811
    parts.write(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_is_deployed_and_runs_there(
    bundle: Path, profile: Path, orin: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--target", str(profile), "--host", orin.address]
    assert main(["deploy", str(bundle), *where, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = Path(told["folder"])
    assert folder == orin.home / "autocompress" / "bundle"
    for path in bundle.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert [check["status"] for check in told["checks"]] == ["passed", "passed"]
    assert told["engine"] == "tensorrt 10.3.0"
    # The engine was built there once, from this very file, and what is printed can be typed there.
    assert len(orin.calls("--saveEngine")) == 1
    assert (folder / "model.engine").stat().st_size > (bundle / "model.onnx").stat().st_size
    sample = np.fromfile(folder / "input.bin", dtype="<f4")
    assert sample.size == 32 * 32
    assert any(f"cd {folder}" in command and "--loadEngine=model.engine" in command for command in told["run"])

    image = np.random.default_rng(1).random((3, 40, 48), dtype=np.float32)
    np.savez(tmp_path / "image.npz", image=image, label=np.zeros(image.shape, np.uint8))
    labels = tmp_path / "labels.npz"
    assert main(["predict", str(bundle), str(tmp_path / "image.npz"), "--out", str(labels), *where]) == 0
    # Three slices, each a process of trtexec, by the engine that was built before.
    assert len(orin.calls("--saveEngine")) == 1
    with np.load(labels) as found:
        key = next(name for name in found.files if found[name].shape == image.shape and found[name].dtype != np.float32)
        assert (found[key] == load(bundle).predict(image)).mean() > 0.999


def test_where_there_is_no_trtexec_its_processor_is_used(
    bundle: Path, profile: Path, orin: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    assert orin.trtexec is not None
    orin.trtexec.unlink()
    assert main(["measure", str(bundle), "--target", str(profile), "--host", orin.address, "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)["measurements"]
    assert only["engine"] == "onnxruntime" and only["outcome"] == "ok" and only["measured"]
    assert only["conditions"]["device"] == "cpu"


def test_mistakes_are_one_line(bundle: Path, profile: Path, orin: Board, capsys: pytest.CaptureFixture[str]) -> None:
    for command, said in (
        (["measure", str(bundle), "--target", "cpu", "--host", orin.address], "run on this machine"),
        (["deploy", str(bundle), "--target", "cpu"], "is this machine"),
        (["deploy", str(bundle), "--target", str(profile)], "has no address"),
        (["measure", str(bundle), "--target", str(profile), "--host", "a b"], "is no address"),
        (["measure", str(bundle), "--target", str(profile), "--host=-oProxyCommand=x"], "is no address"),
        (["predict", str(bundle), "x.png", "--out", "y.png", "--target", str(profile)], "--host"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error, error
