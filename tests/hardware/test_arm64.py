"""The agent and ONNX Runtime really run on an arm64 processor, real or emulated, and compute what they compute here.

CONTRIBUTING.md says how a folder with an emulated system is made; ``AUTOCOMPRESS_TEST_ARM64`` names it. What an
emulator takes for a run says nothing of any device, so no time is looked at here.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.config import CompressionConfig
from autocompress.hardware.hosts.agent_file import agent_file
from autocompress.hardware.infer import infer
from autocompress.hardware.measure import measure
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Target, inspect_target, resolve_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.library import load_spec
from autocompress.specs.schemas import HardwareProfile
from tests.ssh.boards import make_client, open_board

pytestmark = pytest.mark.arm64


@pytest.fixture(scope="module")
def python() -> str:
    """An arm64 Python with NumPy and ONNX Runtime."""
    folder = os.environ.get("AUTOCOMPRESS_TEST_ARM64")
    if folder:
        return str(Path(folder).resolve() / "python3")
    if platform.machine() in ("aarch64", "arm64"):
        return sys.executable
    pytest.skip("no arm64 processor; set AUTOCOMPRESS_TEST_ARM64 to an emulated system (see CONTRIBUTING.md)")


def target(**host: Any) -> Target:
    """ONNX Runtime on one thread of a host."""
    engine = {"name": "onnxruntime", "precisions": ["fp32", "int8"], "threads": 1}
    if "python" in host:
        engine["python"] = host.pop("python")
    profile = {"name": "arm", "device": "cpu", "engines": [engine], **host}
    return inspect_target(HardwareProfile.from_dict(profile))


def here(model: Path, images: Any) -> Any:
    (found,) = infer(model, "onnxruntime", resolve_target(load_spec("target", "cpu-onnxruntime")), [images])
    return found


def test_the_agent_answers_on_arm64(python: str, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"engine": "onnxruntime", "probe": true, "device": "cpu", "options": {}}')
    subprocess.run([python, str(agent_file()), "request.json", "answer.json"], cwd=tmp_path, check=True, timeout=120)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["outcome"] == "ok", answer["message"]
    assert "aarch64" in json.dumps(answer["host"])


def test_a_network_gives_there_what_it_gives_here(python: str, tmp_path: Path) -> None:
    import torch

    from autocompress.bundles.export import export_onnx
    from autocompress.models import build

    torch.manual_seed(0)
    config = CompressionConfig(resolution=64, levels=2, width=0.25)
    network = build("dae-former", config, in_channels=1, num_classes=4)
    model = tmp_path / "model.onnx"
    export_onnx(network, model, in_channels=1, resolution=64, opset=15)
    images = np.random.default_rng(0).random((3, 1, 64, 64), dtype=np.float32)
    (there,) = infer(model, "onnxruntime", target(python=python), [images])
    np.testing.assert_allclose(there, here(model, images), rtol=1e-3, atol=1e-4 * np.abs(there).max())


def test_a_board_of_arm64_over_ssh(
    python: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_model: Callable[..., Path],
    image: Callable[..., Any],
) -> None:
    model = make_model(tmp_path / "model.onnx")
    with open_board(tmp_path / "board", python=python, trtexec=None, jetson=False) as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        found = target(host={"kind": "ssh", "address": board.address})
        assert found.usable, found.unusable[0].line
        (there,) = infer(model, "onnxruntime", found, [image(2)])
        assert board.sshd.wait_idle() == []
    np.testing.assert_allclose(there, here(model, image(2)), rtol=1e-5, atol=1e-5)


def test_an_emulated_processor_is_never_timed(
    python: str, tmp_path: Path, make_model: Callable[..., Path], image: Callable[..., Any], quick: MeasureSettings
) -> None:
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this processor is a real one")
    room = Turnstile(tmp_path / "turnstile")
    model = make_model(tmp_path / "model.onnx")
    (found,) = measure(model, target(python=python), inputs=image(), settings=quick, turnstile=room).measurements
    assert found.outcome == "unsupported"
    assert "emulated" in found.message
    assert found.latency is None
