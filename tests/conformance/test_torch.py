"""The exam of `test_engines` for PyTorch: on the processor, and on an NVIDIA GPU by operators and as a CUDA graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.bundles.exported_program import write_exported_program
from tests.conformance.test_engines import SIDE, EngineExam

OPERATORS = {"Relu": torch.relu, "Sqrt": torch.sqrt, "Frobnicate": torch.relu}


class Network(nn.Module):
    """What `tests.conformance.test_engines.write_model` writes, with the same weights, drawn in the same order."""

    def __init__(self, operator: str, shift: float, channels: int, layers: int) -> None:
        super().__init__()
        random = np.random.default_rng(0)

        def weight(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.from_numpy((random.normal(size=shape) / scale).astype(np.float32)))

        self.operator, self.shift = OPERATORS[operator], shift
        self.first, self.last = weight(channels, 1, 3, 3), weight(3, channels, 1, 1)
        self.middle = nn.ParameterList(
            weight(channels, channels, 3, 3, scale=3 * channels**0.5) for _ in range(layers - 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.operator(nn.functional.conv2d(image, self.first, padding=1) - self.shift)
        for middle in self.middle:
            x = nn.functional.conv2d(x, middle, padding=1)
        return nn.functional.conv2d(x, self.last)


class TestTorch(EngineExam):
    """PyTorch on the CPU."""

    engine = "torch"

    def write_model(self, path: Path, operator: str = "Relu", **sizes: Any) -> Path:
        network = Network(operator, sizes.get("shift", 0.0), sizes.get("channels", 16), sizes.get("layers", 1))
        write_exported_program(network, path, in_channels=1, resolution=SIDE)
        if operator == "Frobnicate":
            # Nothing exports what does not exist: it is written into the file.
            content = path.read_bytes()
            assert b"aten.relu.default" in content
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            program = header["__metadata__"]["exported_program"]
            header["__metadata__"]["exported_program"] = program.replace("aten.relu.", "aten.Frobnicate.")
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        return path


@pytest.mark.gpu
class TestTorchOperatorsOnGpu(TestTorch):
    """PyTorch on a GPU, operator by operator."""

    device = "cuda"
    options: ClassVar[dict[str, Any]] = {"cuda_graphs": False}


@pytest.mark.gpu
class TestTorchGraphOnGpu(TestTorch):
    """PyTorch on a GPU, as one CUDA graph."""

    device = "cuda"
    options: ClassVar[dict[str, Any]] = {"cuda_graphs": True}
