"""The form for TensorRT's FP16: computed wholly in float16 it neither overflows nor changes, where the plain form does.

The exported graph is computed by ONNX's own reference evaluator after every float32 in it was made float16, as
``trtexec --fp16`` may do it: no operator is spared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from autocompress.bundles.export import export_onnx
from autocompress.bundles.half_norm import HalfLayerNorm
from autocompress.config import CompressionConfig
from autocompress.models import build
from autocompress.models.blocks import ChannelAttention
from autocompress.models.dae_former_export import _HalfChannelAttention

CONFIG = CompressionConfig(32, 2, 0.125)


def in_half(path: Path, image: Any) -> Any:
    """Logits of a file all of whose float32 was made float16."""
    model = onnx.load(str(path))
    graph = model.graph
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            values = np.clip(numpy_helper.to_array(tensor), -65504, 65504).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.value_info[:]
    with np.errstate(all="ignore"):
        (logits,) = ReferenceEvaluator(model).run(None, {"input": image.astype(np.float16)})
    assert logits.dtype == np.float16
    return logits.astype(np.float64)


def exported(model: nn.Module, folder: Path, form: str) -> Path:
    path = folder / f"{form}.onnx"
    export_onnx(model, path, in_channels=1, resolution=32, opset=13, form=form)  # type: ignore[arg-type]
    return path


def network(gain: float) -> nn.Module:
    """A network whose maps in the encoder have the magnitude of ``gain``: that of its first LayerNorms' gains."""
    torch.manual_seed(0)
    model = build("dae-former", CONFIG, in_channels=1, num_classes=3).eval()
    with torch.no_grad():
        for stage in model.encoder:
            stage.embed_norm.weight.mul_(gain)
    return model


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(0).random((1, 1, 32, 32), dtype=np.float32)


def expected_of(model: nn.Module, image: Any) -> Any:
    with torch.no_grad():
        return model(torch.from_numpy(image)).numpy()


def test_activations_of_a_thousand_stay_in_range(tmp_path: Path, image: Any) -> None:
    model = network(1000.0)
    seen: list[float] = []
    model.encoder[0].blocks[0].norm1.register_forward_pre_hook(
        lambda _, given: seen.append(float(given[0].abs().max()))
    )
    plain, half = exported(model, tmp_path, "plain"), exported(model, tmp_path, "half")
    expected = expected_of(model, image)
    assert max(seen) > 1000
    scale = np.abs(expected).max()
    overflowed = in_half(plain, image)
    assert not np.isfinite(overflowed).all() or np.abs(overflowed - expected).max() > 0.5 * scale
    found = in_half(half, image)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() < 0.05 * scale
    # Where a segmentation is clear of a tie, its class stays.
    top = np.sort(expected, axis=1)
    clear = top[:, -1] - top[:, -2] > 0.05 * scale
    assert (found.argmax(1) == expected.argmax(1))[clear].all()


def test_ordinary_activations_are_as_exact_as_in_the_plain_form(tmp_path: Path, image: Any) -> None:
    model = network(1.0)
    plain, half = exported(model, tmp_path, "plain"), exported(model, tmp_path, "half")
    expected = expected_of(model, image)
    errors = [np.abs(in_half(path, image) - expected).max() / np.abs(expected).max() for path in (plain, half)]
    assert errors[1] < max(0.02, 1.5 * errors[0])


def test_no_square_and_no_norm_is_left(tmp_path: Path) -> None:
    model = network(1.0)
    assert {"Pow", "ReduceL2"} <= {
        node.op_type for node in onnx.load(str(exported(model, tmp_path, "plain"))).graph.node
    }
    operators = {node.op_type for node in onnx.load(str(exported(model, tmp_path, "half"))).graph.node}
    assert not operators & {"Pow", "ReduceL2", "LayerNormalization"}


@pytest.mark.parametrize("magnitude", [0.0, 1e-6, 1e-3, 1.0, 1e3, 1e8])
def test_the_same_layer_norm(magnitude: float) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(48)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = magnitude * torch.randn(2, 5, 48) + magnitude
    expected = norm.double()(x.double())
    norm.float()
    torch.testing.assert_close(HalfLayerNorm(norm)(x).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_constant_row_is_no_division_by_zero() -> None:
    norm = nn.LayerNorm(8)
    for value in (0.0, 1e-7, 60000.0):
        x = torch.full((1, 8), value, dtype=torch.float16)
        found = HalfLayerNorm(norm).half()(x)
        assert torch.isfinite(found).all() and found.abs().max() < 1e-3


def test_a_layer_norm_over_two_axes() -> None:
    norm = nn.LayerNorm((3, 4))
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(HalfLayerNorm(norm)(x), norm(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-2, 1.0, 300.0])
def test_the_same_attention_between_channels(magnitude: float) -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(16).eval()
    x = magnitude * torch.randn(2, 4, 4, 16)
    x[..., 3] = 0  # a pruned channel
    with torch.no_grad():
        expected = attention(x)
        torch.testing.assert_close(_HalfChannelAttention(attention)(x), expected, rtol=1e-4, atol=1e-5 * magnitude)


def test_a_dead_channel_is_no_division_by_zero() -> None:
    attention = ChannelAttention(16).eval()
    with torch.no_grad():
        attention.qkv.weight[:8] = 0
        found = _HalfChannelAttention(attention).half()(torch.ones(1, 2, 2, 16, dtype=torch.float16))
    assert torch.isfinite(found).all()


def test_the_reference_rounds_to_half() -> None:
    """The proof above rests on it: 300 squared is beyond float16."""
    nodes = [helper.make_node("Mul", ["input", "input"], ["y"])]
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT16, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])
    model = helper.make_model(helper.make_graph(nodes, "g", [value], [result]))
    with np.errstate(over="ignore"):
        assert np.isinf(ReferenceEvaluator(model).run(None, {"input": np.float16([300])})[0]).all()
