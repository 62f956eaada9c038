"""On a machine with an NVIDIA GPU (``pytest -m gpu``): PyTorch in all number formats, graphs, energy, and memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.bundles.exported_program import write_exported_program
from autocompress.config import CompressionConfig
from autocompress.hardware.candidates import export_untrained, noise
from autocompress.hardware.infer import infer
from autocompress.hardware.measure import measure
from autocompress.hardware.targets import Target, inspect_target, resolve_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.library import load_spec

pytestmark = pytest.mark.gpu

CONFIG = CompressionConfig(64, 3, 0.5)
LIMITS = {"fp32": 1e-3, "fp16": 0.01, "bf16": 0.05}


@pytest.fixture(scope="module")
def target() -> Target:
    found = inspect_target(load_spec("target", "gpu"), engines=["torch"])
    if not found.usable:
        pytest.skip(found.unusable[0].line)
    return found


@pytest.fixture(scope="module")
def program(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_untrained(CONFIG, target.engines, tmp_path_factory.mktemp("program"), family="dae-former")["torch"]


def with_graphs(target: Target, graphs: bool) -> Target:
    return replace(target, engines=(replace(target.engines[0], options={"cuda_graphs": graphs}),))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graphs", [False, True])
def test_logits_are_those_of_the_processor(program: Path, target: Target, precision: str, graphs: bool) -> None:
    if precision not in target.engines[0].precisions:
        pytest.skip(f"this GPU has no {precision}")
    images = noise(3, 1, 64, 64)
    exact = next(infer(program, "torch", resolve_target(load_spec("target", "cpu"), engines=["torch"]), [images]))
    found = next(infer(program, "torch", with_graphs(target, graphs), [images], precision=precision))
    difference = np.abs(found - exact).max() / np.abs(exact).max()
    assert difference < LIMITS[precision]
    assert precision == "fp32" or difference > 1e-4
    # A recorded graph must read each new image.
    assert np.abs(found[0] - found[1]).max() > 0


def test_a_measurement_carries_the_state_of_the_gpu(program: Path, target: Target, tmp_path: Path) -> None:
    room = Turnstile(tmp_path / "turnstile")
    found = measure(program, target, inputs=noise(2, 1, 64, 64), turnstile=room).best
    assert found is not None
    details, gpu = found.conditions["engine_details"], found.conditions["gpu"]
    assert details["cuda_graphs"] is True
    assert details["gpu"] == torch.cuda.get_device_name(0) == gpu["name"]
    assert details["gpu_peak_memory_bytes"] > 2**20
    assert gpu["driver"]
    assert gpu["after"]["sm_clock_mhz"] > 0
    assert gpu["after"]["temperature_c"] > 0
    if found.energy_joules is not None:
        # Between a tenth of the power limit and the limit, over one inference.
        limit = gpu["power_limit_w"] * found.latency.mean / 1e3
        assert 0.02 * limit < found.energy_joules < 1.2 * limit


def test_a_gpu_without_memory_enough_is_an_outcome(target: Target, tmp_path: Path) -> None:
    class Wide(nn.Module):
        """More than any memory between two small ends."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.repeat(1, 2**30, 1, 1).exp().sum(1, keepdim=True)

    path = tmp_path / "p.safetensors"
    write_exported_program(Wide(), path, in_channels=1, resolution=256)
    (found,) = measure(
        path, target, inputs=noise(1, 1, 256, 256), turnstile=Turnstile(tmp_path / "turnstile")
    ).measurements
    assert found.outcome == "out_of_memory"
    assert "CUDA out of memory" in found.message
