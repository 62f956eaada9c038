"""A small network with all that is delicate: LayerNorm, softmax, an L2 norm, a depthwise convolution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autocompress.bundles.export import export_onnx
from autocompress.data.dataset import FloatArray

RESOLUTION = 16


class Delicate(nn.Module):
    """1 x 16 x 16 to 3 classes; ``scale`` blows up what the LayerNorm sees."""

    def __init__(self, channels: int = 64, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.embed = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.depthwise = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1, groups=4 * channels)
        self.mix = nn.Conv2d(4 * channels, channels, 1)
        self.classify = nn.Linear(channels, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image).permute(0, 2, 3, 1)
        batch, channels = x.shape[0], x.shape[3]
        x = self.norm(x * self.scale)
        queries, keys, values = self.qkv(x).reshape(batch, -1, 3 * channels).chunk(3, dim=2)
        keys = keys / keys.norm(dim=1, keepdim=True).clamp_min(1e-6)
        context = F.softmax(keys * 8, dim=1).transpose(1, 2) @ values
        x = x + (F.softmax(queries, dim=2) @ context).reshape(x.shape)
        hidden = F.gelu(self.depthwise(self.expand(x).permute(0, 3, 1, 2)))
        return self.classify((self.mix(hidden)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.fixture(scope="session")
def delicate() -> Callable[..., nn.Module]:
    """Builds the network; the same weights each time."""

    def build(channels: int = 64, scale: float = 1.0) -> nn.Module:
        torch.manual_seed(0)
        return Delicate(channels, scale)

    return build


@pytest.fixture(scope="session")
def export() -> Callable[..., Path]:
    """Exports the network to a file."""

    def to_file(model: nn.Module, path: Path, opset: int = 17) -> Path:
        export_onnx(model, path, in_channels=1, resolution=RESOLUTION, opset=opset)
        return path

    return to_file


@pytest.fixture(scope="session")
def exported(
    delicate: Callable[..., nn.Module], export: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return export(delicate(), tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="session")
def samples() -> FloatArray:
    return np.random.default_rng(0).random((6, 1, RESOLUTION, RESOLUTION), np.float32)


@pytest.fixture(scope="session")
def run() -> Callable[[Path, FloatArray], FloatArray]:
    def run_file(path: Path, images: FloatArray) -> FloatArray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [(each.name, each.type) for each in session.get_inputs()] == [("input", "tensor(float)")]
        assert [(each.name, each.type) for each in session.get_outputs()] == [("logits", "tensor(float)")]
        return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])

    return run_file
