"""Other precisions: smaller files, the same answers, float32 at both ends, and plain words for what cannot be."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autocompress.compression import quantization
from autocompress.compression.precision import calibration_slices, convert
from autocompress.data.dataset import FloatArray
from autocompress.errors import ConfigError

Run = Callable[[Path, FloatArray], FloatArray]
Build = Callable[..., nn.Module]
Export = Callable[..., Path]


def _relative_error(found: FloatArray, expected: FloatArray) -> float:
    return float(np.abs(found - expected).mean() / np.abs(expected).mean())


def _kinds(path: Path) -> dict[str, set[int]]:
    """Element types that go into each kind of operator."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    found: dict[str, set[int]] = collections.defaultdict(set)
    for node in graph.node:
        found[node.op_type].update(types[name] for name in node.input[:1] if name in types)
    return found


@pytest.mark.parametrize("opset", [13, 17])
def test_fp16_is_half_the_size_and_computes_in_float16(
    delicate: Build, export: Export, samples: FloatArray, run: Run, tmp_path: Path, opset: int
) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "half.onnx"
    # The graph itself does not shrink: a network with some weights is needed to see the ratio.
    export(delicate(channels=160), source, opset)
    convert(source, target, "fp16")
    assert target.stat().st_size <= 0.55 * source.stat().st_size
    kinds = _kinds(target)
    assert kinds["MatMul"] == kinds["Conv"] == {TensorProto.FLOAT16}
    for fragile in ("Softmax", "LayerNormalization", "Pow", "Sqrt", "ReduceMean", "ReduceL2"):
        assert kinds.get(fragile, {TensorProto.FLOAT}) == {TensorProto.FLOAT}
    assert _relative_error(run(target, samples), run(source, samples)) < 5e-3


@pytest.mark.parametrize("opset", [13, 17])
def test_fp16_survives_a_layernorm_whose_squares_overflow(
    delicate: Build, export: Export, samples: FloatArray, run: Run, tmp_path: Path, opset: int
) -> None:
    # Values near 600 have squares beyond 65504, where half precision ends.
    source, target = tmp_path / "model.onnx", tmp_path / "half.onnx"
    export(delicate(scale=1000.0), source, opset)
    convert(source, target, "fp16")
    found = run(target, samples)
    assert np.isfinite(found).all()
    assert _relative_error(found, run(source, samples)) < 5e-3


def test_int8_is_small_and_close(
    delicate: Build, export: Export, samples: FloatArray, run: Run, tmp_path: Path
) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export(delicate(channels=256), source)
    convert(source, target, "int8", calibration=samples)
    assert target.stat().st_size <= 0.35 * source.stat().st_size
    expected, found = run(source, samples), run(target, samples)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95
    stored = {tensor.data_type for tensor in onnx.load(str(target)).graph.initializer if len(tensor.dims) >= 2}
    assert TensorProto.INT8 in stored


@pytest.mark.parametrize("form", ["plain", "tokens", "channels_first"])
def test_a_dae_former_is_small_and_close_as_int8_in_every_form(form: Any, run: Run, tmp_path: Path) -> None:
    from autocompress.bundles.export import export_onnx
    from autocompress.config import CompressionConfig
    from autocompress.models import build

    torch.manual_seed(0)
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    model = build("dae-former", CompressionConfig(32, 2, 0.5), in_channels=1, num_classes=4)
    export_onnx(model, source, in_channels=1, resolution=32, form=form)
    images = np.random.default_rng(0).random((4, 1, 32, 32), dtype=np.float32)
    convert(source, target, "int8", calibration=images)
    assert target.stat().st_size <= 0.35 * source.stat().st_size
    assert _relative_error(run(target, images), run(source, images)) < 0.05


def test_int8_weights_are_rounded_by_channel_to_their_largest(
    exported: Path, samples: FloatArray, tmp_path: Path
) -> None:
    target = tmp_path / "int8.onnx"
    convert(exported, target, "int8", calibration=samples)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(target)).graph.initializer}
    floats = [onnx.numpy_helper.to_array(t) for t in onnx.load(str(exported)).graph.initializer]
    for node in onnx.load(str(target)).graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants or constants[node.input[0]].ndim < 2:
            continue
        stored, scales, zeros = (constants[name] for name in node.input)
        axis = next(a.i for a in node.attribute if a.name == "axis")
        shape = [-1 if i == axis else 1 for i in range(stored.ndim)]
        restored = stored.astype(np.float64) * scales.reshape(shape)
        original = min((f for f in floats if f.shape == stored.shape), key=lambda f: float(np.abs(f - restored).max()))
        assert (np.abs(original - restored) <= scales.reshape(shape) * 0.5001).all()
        assert (zeros == 0).all()
        assert (np.abs(stored).max(axis=tuple(i for i in range(stored.ndim) if i != axis)) == 127).all()


def test_int8_for_tensorrt_is_symmetric(exported: Path, samples: FloatArray, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    convert(exported, target, "int8", calibration=samples, engine="tensorrt")
    graph = onnx.load(str(target)).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert zero == 0
    assert (run(target, samples).argmax(1) == run(exported, samples).argmax(1)).mean() > 0.9


def test_int8_leaves_the_first_and_the_last_layer_and_what_is_asked_in_float(
    exported: Path, samples: FloatArray, tmp_path: Path
) -> None:
    from autocompress.compression.quantization import candidates

    def in_float(path: Path) -> int:
        graph = onnx.load(str(path)).graph
        floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) >= 2}
        return sum(
            any(name in floats for name in node.input) for node in graph.node if node.op_type in ("MatMul", "Conv")
        )

    convert(exported, tmp_path / "all.onnx", "int8", calibration=samples)
    assert in_float(tmp_path / "all.onnx") == 2
    names = candidates(exported)
    assert len(names) == 4  # qkv, expand, depthwise, mix
    convert(exported, tmp_path / "one.onnx", "int8", calibration=samples, exclude=names[:1])
    assert in_float(tmp_path / "one.onnx") == 3
    convert(exported, tmp_path / "kept.onnx", "int8", calibration=samples, keep_float=2)
    assert in_float(tmp_path / "kept.onnx") == 4


def test_the_most_sensitive_layer_is_found(
    delicate: Build, export: Export, samples: FloatArray, run: Run, tmp_path: Path
) -> None:
    # One weight a hundred times the rest in each row leaves almost no levels for the others.
    model = delicate()
    with torch.no_grad():
        model.expand.weight[:, 0] *= 300
    source = tmp_path / "model.onnx"
    export(model, source)
    convert(source, tmp_path / "all.onnx", "int8", calibration=samples)
    convert(source, tmp_path / "mixed.onnx", "int8", calibration=samples, keep_float=1)
    expected = run(source, samples)
    mixed, everything = (_relative_error(run(tmp_path / n, samples), expected) for n in ("mixed.onnx", "all.onnx"))
    assert mixed < everything


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_is_the_same_file_for_an_engine_that_rounds(exported: Path, tmp_path: Path, precision: Any) -> None:
    convert(exported, tmp_path / "same.onnx", precision)
    assert (tmp_path / "same.onnx").read_bytes() == exported.read_bytes()


def test_bad_input_is_named(
    delicate: Build, export: Export, exported: Path, samples: FloatArray, tmp_path: Path
) -> None:
    target = tmp_path / "out.onnx"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "int4"}, "int4"),
        ({"precision": "int8"}, "got none"),
        ({"precision": "int8", "calibration": samples[:0]}, "got none"),
        ({"precision": "int8", "calibration": samples[..., :8]}, r"\(6, 1, 16, 8\)"),
        ({"precision": "int8", "calibration": samples[0]}, r"\(1, 16, 16\)"),
        ({"precision": "int8", "calibration": samples * np.nan}, "not finite"),
    ]
    for values, named in cases:
        with pytest.raises(ConfigError, match=named):
            convert(exported, target, **values)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for source in ("broken.onnx", "missing.onnx"):
        with pytest.raises(ConfigError, match=source):
            convert(tmp_path / source, target, "fp16")
    export(delicate(8), tmp_path / "old.onnx", 11)
    with pytest.raises(ConfigError, match="opset 13"):
        convert(tmp_path / "old.onnx", target, "int8", calibration=samples)
    assert not target.exists()


def test_calibration_slices_are_spread_evenly() -> None:
    images = np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1)
    assert calibration_slices(images, 4).ravel().tolist() == [0, 33, 66, 99]
    assert len(calibration_slices(images[:3])) == 3
    with pytest.raises(ConfigError, match="no training slices"):
        calibration_slices(images[:0])


def test_products_of_two_kinds_may_share_a_weight(tmp_path: Path) -> None:
    # An exporter stores equal weights once: the zeros of two layers that inherited nothing, for one.
    rng = np.random.default_rng(0)
    first, shared, last = (rng.standard_normal((8, 8)).astype(np.float32) for _ in range(3))
    nodes = [
        helper.make_node("MatMul", ["input", "first"], ["a"]),
        helper.make_node("MatMul", ["a", "shared"], ["b"]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("Gemm", ["c", "shared"], ["d"]),
        helper.make_node("MatMul", ["d", "last"], ["logits"]),
    ]
    constants = {"first": first, "shared": shared, "last": last, "flat": np.array([4, 8])}
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 4, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    images = rng.random((4, 1, 4, 8), dtype=np.float32)
    found = quantization.plan(source, images)
    assert found.nodes == ("b", "d")
    quantization.write_int8(found, target)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    wanted = images[0, 0] @ first @ shared @ shared @ last
    error = session.run(None, {"input": images[:1]})[0] - wanted
    # Four roundings to 8 bits, of some 1 % each.
    assert np.sqrt((error**2).mean() / (wanted**2).mean()) < 0.1
