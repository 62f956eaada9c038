"""Small ONNX files and targets for the tests of measuring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.hardware.settings import MeasureSettings


@pytest.fixture(scope="session")
def quick() -> MeasureSettings:
    """The protocol with as little time as it allows; how busy the machine is does not matter."""
    return MeasureSettings(
        min_seconds=0.0, max_seconds=0.05, warmup_seconds=0.05, foreign_limit=1e9, agreement=None, timeout_seconds=120.0
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """See `_make_model`."""
    return _make_model


def _make_model(
    path: Path, *, side: int = 16, channels: int = 8, operator: str | None = None, opset: int = 16, seed: int = 0
) -> Path:
    """Write Conv -> (operator) -> Conv with 1 input channel and 3 output channels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    first = random.normal(size=(channels, 1, 3, 3)).astype(np.float32)
    second = random.normal(size=(3, channels, 1, 1)).astype(np.float32)
    nodes: list[Any] = [
        helper.make_node("Conv", ["input", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(operator or "Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, side, side])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def image() -> Callable[..., Any]:
    """Reproducible network inputs N x 1 x side x side in 0..1."""

    def make(count: int = 1, side: int = 16) -> Any:
        return np.random.default_rng(1).random((count, 1, side, side), dtype=np.float32)

    return make
