"""What is refused before anything is sent to a TensorRT: its opset, its operators, and their limits by version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.config import CompressionConfig
from autocompress.hardware.candidates import export_untrained
from autocompress.hardware.engines.tensorrt import newest_opset, refuse, version_of
from autocompress.hardware.gate import refuse_model
from autocompress.hardware.targets import Engine


def graph_of(*nodes: Any, opset: int = 13, **stored: Any) -> Any:
    """A model with these nodes; shapes and outputs do not matter to the check."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(list(nodes), "g", [value], [value], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("text", "opset", "version"),
    [
        ("8.2.1", 13, (8, 2)),
        ("10.3.0", 17, (10, 3)),
        # Of a target that is not at hand only the profile's opset is known.
        ("", 13, (8, 4)),
        ("", 17, (8, 6)),
        ("", 20, (10, 5)),
    ],
)
def test_the_version_is_the_engines_or_implied(text: str, opset: int, version: tuple[int, int]) -> None:
    assert version_of(text, opset) == version


def test_opsets_of_the_documented_versions() -> None:
    known = {(8, 0): 13, (8, 2): 13, (8, 4): 13, (8, 5): 17, (8, 6): 17, (9, 2): 19, (10, 3): 20, (10, 15): 24}
    assert {version: newest_opset(version) for version in known} == known


# The eleven that JetPack 4.6 lacks; where they came from is told.
MISSING_IN_82 = {
    "LayerNormalization": "8.6",
    "GroupNormalization": "8.6",
    "IsInf": "8.6",
    "HardSwish": "8.5",
    "Mod": "8.5",
    "OneHot": "8.5",
    "NonZero": "8.5",
    "GridSample": "8.5",
    "Trilu": "8.5",
    "Gelu": "10.0",
    "Mish": "10.0",
}


@pytest.mark.parametrize("operator", MISSING_IN_82)
def test_operators_that_a_jetson_nano_lacks(operator: str) -> None:
    model = graph_of(helper.make_node("Relu", ["x"], ["a"]), helper.make_node(operator, ["a"], ["b"]))
    since = MISSING_IN_82[operator]
    assert refuse(model, (8, 2)) == f"TensorRT 8.2 has no importer for the operator {operator}, which came with {since}"
    assert refuse(model, (10, 3)) is None


def test_operators_that_no_version_reads_and_those_that_all_do() -> None:
    assert refuse(graph_of(helper.make_node("QLinearConv", ["x"], ["a"])), (10, 15)) == (
        "TensorRT 10.15 has no importer for the operator QLinearConv"
    )
    for operator in ("Erf", "Softmax", "ReduceMean", "MatMul", "Transpose", "DepthToSpace", "Pow", "Reciprocal"):
        assert refuse(graph_of(helper.make_node(operator, ["x"], ["a"])), (8, 0)) is None
    assert "Einsum, which came with 8.2" in str(refuse(graph_of(helper.make_node("Einsum", ["x"], ["a"])), (8, 0)))


def test_the_opset() -> None:
    model = graph_of(helper.make_node("Relu", ["x"], ["a"]), opset=14)
    assert refuse(model, (8, 2)) == "TensorRT 8.2 reads ONNX opset 13 at most, the model has 14"
    assert refuse(model, (8, 5)) is None


def test_operators_inside_of_branches_are_found() -> None:
    inner = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )
    model = graph_of(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner), c=True)
    assert "NonZero" in str(refuse(model, (8, 2)))


@pytest.mark.parametrize(
    ("equation", "said"),
    [("bij,bjk->bik", None), ("...ij,jk->ik", "no ellipsis"), ("ii->i", "no diagonal"), ("bhwc,bhwc->bc", None)],
)
def test_einsum(equation: str, said: str | None) -> None:
    model = graph_of(helper.make_node("Einsum", ["x", "x"], ["a"], equation=equation))
    found = refuse(model, (8, 2))
    assert found is None if said is None else said in str(found)
    assert refuse(model, (10, 3)) is None


def test_weights_of_convolutions_are_stored_or_dequantized() -> None:
    weights = np.ones((3, 3, 1, 1), np.float32)
    assert refuse(graph_of(helper.make_node("Conv", ["x", "w"], ["a"]), w=weights), (8, 2)) is None
    quantized = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["a"]),
    ]
    stored = {"q": weights.astype(np.int8), "s": np.float32(1), "z": np.int8(0)}
    assert refuse(graph_of(*quantized, **stored), (8, 2)) is None
    computed = graph_of(helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Conv", ["x", "w"], ["a"]))
    assert refuse(computed, (8, 2)) == "TensorRT 8.2 wants stored weights for Conv, but 'w' is computed"
    assert refuse(computed, (8, 5)) is None


def test_quantization_must_be_symmetric() -> None:
    def model(zero: int) -> Any:
        return graph_of(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), s=np.float32(1), z=np.uint8(zero))

    assert refuse(model(0), (10, 3)) is None
    assert "QuantizeLinear with the zero point 0 only" in str(refuse(model(128), (10, 3)))


def test_resize_and_second_outputs() -> None:
    cubic = graph_of(helper.make_node("Resize", ["x", "", "s"], ["a"], mode="cubic"), s=np.float32([1, 1, 2, 2]))
    assert refuse(cubic, (8, 2)) == "TensorRT 8.2 reads Resize with the mode nearest, linear only, the model has cubic"
    linear = graph_of(helper.make_node("Resize", ["x", "", "s"], ["a"], mode="linear"), s=np.float32([1, 1, 2, 2]))
    assert refuse(linear, (8, 2)) is None
    pool = graph_of(helper.make_node("MaxPool", ["x"], ["a", "places"], kernel_shape=[2, 2]))
    assert "only the first output of MaxPool" in str(refuse(pool, (10, 3)))


def test_the_gate_asks_for_tensorrt_alone(make_model: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.onnx", operator="HardSwish", opset=14)
    formats = (("fp32",), ("none",), 17, 1)
    assert refuse_model(path, Engine("onnxruntime", "1.26.0", *formats)) is None
    assert refuse_model(path, Engine("tensorrt", "8.5.2", *formats)) is None
    assert refuse_model(path, Engine("tensorrt", "8.2.1", *formats)) == (
        "TensorRT 8.2 reads ONNX opset 13 at most, the model has 14"
    )


@pytest.mark.parametrize("family", ["dae-former", "unet"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("version", "opset"), [("8.2.1", 13), ("10.3.0", 17), ("", 13), ("", 17)])
def test_what_is_exported_for_tensorrt_passes(
    tmp_path: Path, family: str, precision: str, version: str, opset: int
) -> None:
    config = CompressionConfig.from_dict(
        {"resolution": 32, "levels": 2, "width": 0.125, "grouping": "dense", "precision": precision}
    )
    engine = Engine("tensorrt", version, ("fp32", "fp16", "int8"), ("none", "channel"), opset, 1)
    path = export_untrained(config, [engine], tmp_path, family=family)["tensorrt"]
    assert refuse_model(path, engine) is None
    operators = {node.op_type for node in onnx.load(str(path)).graph.node}
    if opset == 13:
        assert "LayerNormalization" not in operators
    if precision == "fp16" and version:
        # TensorRT rounds by itself: the file holds float32, and nothing in it may leave the range of float16.
        assert not operators & {"Pow", "ReduceL2"} or family == "unet"
