"""Costs of graphs that are small enough to be counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import UserError
from autocompress.hardware.prediction.features import KINDS, GraphCosts, graph_costs

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[Any],
    weights: dict[str, Any],
    shape: Sequence[int | str],
    *,
    out: Sequence[int] | None = None,
    opset: int = 17,
) -> Any:
    """A model from ``input`` to ``logits``."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("input", FLOAT, shape)],
        [helper.make_tensor_value_info("logits", FLOAT, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def conv(weight: Sequence[int], shape: Sequence[int], **attributes: Any) -> GraphCosts:
    node = helper.make_node("Conv", ["input", "w"], ["logits"], **attributes)
    return graph_costs(model([node], {"w": ones(*weight)}, shape), "fp32")


def test_dense_convolution() -> None:
    costs = conv((16, 8, 3, 3), (1, 8, 10, 10), pads=[1, 1, 1, 1])
    (node,) = costs.nodes
    assert (node.kind, node.arithmetic) == ("conv_dense", "fp32")
    assert node.macs == 10 * 10 * 16 * 8 * 9
    assert node.activation_bytes == 4 * 100 * (8 + 16)
    assert node.weight_bytes == costs.weight_bytes == 4 * 16 * 8 * 9
    assert node.narrowest == 16
    assert costs.peak_activation_bytes == 4 * 100 * (8 + 16)


def test_pointwise_and_depthwise_convolutions() -> None:
    (pointwise,) = conv((4, 8, 1, 1), (1, 8, 6, 6)).nodes
    assert (pointwise.kind, pointwise.macs, pointwise.narrowest) == ("conv_pointwise", 36 * 4 * 8, 4)
    (depthwise,) = conv((8, 1, 3, 3), (1, 8, 6, 6), group=8, strides=[2, 2], pads=[1, 1, 1, 1]).nodes
    assert (depthwise.kind, depthwise.macs, depthwise.narrowest) == ("conv_depthwise", 9 * 8 * 9, 8)


def test_transposed_convolution() -> None:
    node = helper.make_node("ConvTranspose", ["input", "w"], ["logits"], strides=[2, 2])
    (cost,) = graph_costs(model([node], {"w": ones(8, 3, 2, 2)}, (1, 8, 5, 5)), "fp32").nodes
    assert cost.macs == 25 * 8 * 3 * 4  # each input value is spread over 2 x 2 x 3 outputs
    assert cost.activation_bytes == 4 * (8 * 25 + 3 * 100)


def test_products_with_weights_and_of_activations() -> None:
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["a"]),
        helper.make_node("Add", ["bias", "a"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["c", "b"], ["logits"]),
    ]
    costs = graph_costs(model(nodes, {"w": ones(6, 5), "bias": ones(5)}, (1, 20, 6)), "fp32")
    assert [node.kind for node in costs.nodes] == ["matmul_weights", "layout", "matmul_activations"]
    weights, layout, activations = costs.nodes
    assert (weights.macs, weights.weight_bytes) == (20 * 6 * 5, 4 * 30)
    assert weights.activation_bytes == 4 * (120 + 100)  # the bias is added before anything is written
    assert layout.bytes == 4 * 200
    assert (activations.macs, activations.weight_bytes, activations.narrowest) == (5 * 5 * 20, 0, 5)
    assert costs.weight_bytes == 4 * 35
    assert costs.launches == 3


def test_gemm_turned() -> None:
    node = helper.make_node("Gemm", ["input", "w"], ["logits"], transA=1)
    (cost,) = graph_costs(model([node], {"w": ones(20, 5)}, (20, 6)), "fp32").nodes
    assert (cost.kind, cost.macs) == ("matmul_weights", 6 * 20 * 5)


def test_views_and_transposes_that_move_nothing_are_free() -> None:
    nodes = [
        helper.make_node("Reshape", ["input", "shape"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),  # 1 x 4 x 9 to 4 x 1 x 9
        helper.make_node("Relu", ["b"], ["logits"]),
    ]
    costs = graph_costs(model(nodes, {"shape": np.array([1, 4, 9])}, (1, 4, 3, 3)), "fp32")
    assert [(node.kind, node.bytes) for node in costs.nodes] == [("elementwise", 4 * 72)]
    assert costs.peak_activation_bytes == 4 * 72  # the input under its new name, and the result


def test_shapes_that_the_network_computes() -> None:
    """Shape -> Gather -> Concat -> Reshape, as the plain export writes it; onnx's own inference gives up there."""
    nodes = [
        helper.make_node("Shape", ["input"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["channels"]),
        helper.make_node("Mul", ["channels", "two"], ["twice"]),
        helper.make_node("Concat", ["minus", "twice"], ["target"], axis=0),
        helper.make_node("Reshape", ["input", "target"], ["a"]),
        helper.make_node("Softmax", ["a"], ["logits"], axis=-1),
    ]
    numbers = {"one": np.array([1]), "two": np.array([2]), "minus": np.array([-1])}
    costs = graph_costs(model(nodes, numbers, (1, 6, 4, 4)), "fp32")
    assert [(node.kind, node.bytes) for node in costs.nodes] == [("softmax", 2 * 4 * 96)]


def gelu_nodes(half_first: bool) -> list[Any]:
    before = [
        helper.make_node("Div", ["input", "root"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["c"]),
    ]
    if half_first:
        half, last = ["input", "half"], ["d", "c"]
        return [*before, helper.make_node("Mul", half, ["d"]), helper.make_node("Mul", last, ["logits"])]
    return [*before, helper.make_node("Mul", ["input", "c"], ["d"]), helper.make_node("Mul", ["d", "half"], ["logits"])]


@pytest.mark.parametrize("half_first", [False, True])
def test_gelu_is_one_operator(half_first: bool) -> None:
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    costs = graph_costs(model(gelu_nodes(half_first), numbers, (1, 10, 7)), "fp32")
    assert [(node.kind, node.bytes) for node in costs.nodes] == [("gelu", 2 * 4 * 70)]


def test_a_norm_in_pieces_costs_what_one_in_a_piece_does() -> None:
    pieces = [
        helper.make_node("ReduceMean", ["input"], ["m"], axes=[-1]),
        helper.make_node("Sub", ["input", "m"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["q"]),
        helper.make_node("ReduceMean", ["q"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["e"]),
        helper.make_node("Sqrt", ["e"], ["s"]),
        helper.make_node("Div", ["d", "s"], ["n"]),
        helper.make_node("Mul", ["n", "scale"], ["k"]),
        helper.make_node("Add", ["k", "shift"], ["logits"]),
    ]
    weights = {"eps": np.float32(1e-5), "scale": ones(7), "shift": ones(7)}
    in_pieces = graph_costs(model(pieces, weights, (1, 10, 7)), "fp32")
    whole = [helper.make_node("LayerNormalization", ["input", "scale", "shift"], ["logits"])]
    in_one = graph_costs(model(whole, {"scale": ones(7), "shift": ones(7)}, (1, 10, 7)), "fp32")
    assert [(node.kind, node.bytes) for node in in_pieces.nodes] == [("norm", 2 * 4 * 70)]
    assert in_pieces.nodes == in_one.nodes
    assert in_pieces.peak_activation_bytes == in_one.peak_activation_bytes == 2 * 4 * 70


def quantized(quantize_result: bool) -> Any:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["qa"]),
        helper.make_node("DequantizeLinear", ["qa", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        helper.make_node("MatMul", ["a", "wf"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["b"]),
    ]
    if quantize_result:
        nodes += [
            helper.make_node("QuantizeLinear", ["b", "s", "z"], ["qb"]),
            helper.make_node("DequantizeLinear", ["qb", "s", "z"], ["c"]),
            helper.make_node("Relu", ["c"], ["logits"]),
        ]
    else:
        nodes += [helper.make_node("Relu", ["b"], ["r"]), helper.make_node("Sigmoid", ["r"], ["logits"])]
    weight = np.array([[1, 0], [2, 3], [0, 4], [5, 0]], np.int8)
    numbers = {"s": np.float32(0.1), "z": np.int8(0), "w": weight, "bias": ones(2)}
    return model(nodes, numbers, (1, 10, 4))


def test_int8_product_between_quantizations() -> None:
    costs = graph_costs(quantized(True), "int8")
    first, product, last, relu = costs.nodes
    assert (first.kind, first.activation_bytes) == ("quantize", 40 * 4 + 40 * 1)
    assert (product.kind, product.arithmetic, product.macs) == ("matmul_weights", "int8", 10 * 4 * 2)
    assert product.activation_bytes == 40 + 20  # integers in and out: the quantization of the result is part of it
    assert (product.weight_bytes, product.zeros) == (8, 3 / 8)
    assert (last.kind, last.activation_bytes) == ("quantize", 20 + 80)  # an operator on floats needs them
    assert (relu.kind, relu.arithmetic) == ("elementwise", "fp32")
    assert costs.zeros == 3 / 8


def test_int8_product_with_a_float_result() -> None:
    costs = graph_costs(quantized(False), "int8")
    assert [node.kind for node in costs.nodes] == ["quantize", "matmul_weights", "elementwise"]
    assert costs.nodes[1].activation_bytes == 40 + 80  # bias and Relu happen before the result is written


def test_float16_and_bfloat16_take_two_bytes() -> None:
    nodes = [
        helper.make_node("Cast", ["input"], ["a"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Cast", ["b"], ["logits"], to=FLOAT),
    ]
    cast, product, _ = graph_costs(model(nodes, {"w": np.ones((4, 2), np.float16)}, (1, 10, 4)), "fp16").nodes
    assert (cast.kind, cast.bytes) == ("quantize", 40 * 6)
    assert (product.arithmetic, product.activation_bytes, product.weight_bytes) == ("fp16", 2 * 60, 2 * 8)
    single = model([helper.make_node("MatMul", ["input", "w"], ["logits"])], {"w": ones(4, 2)}, (1, 10, 4))
    (rounded,) = graph_costs(single, "bf16").nodes
    assert (rounded.arithmetic, rounded.activation_bytes, rounded.weight_bytes) == ("bf16", 2 * 60, 2 * 8)


def test_vector_names_do_not_depend_on_the_network() -> None:
    one, other = conv((4, 8, 1, 1), (1, 8, 6, 6)), graph_costs(quantized(True), "int8")
    assert list(one.vector()) == list(other.vector())
    assert one.vector()["log_macs"] == pytest.approx(np.log1p(36 * 32))
    assert one.vector()["is_fp32"] == other.vector()["is_int8"] == 1
    assert {f"log_launches_{kind}" for kind in KINDS} <= set(one.vector())
    assert all(np.isfinite(list(other.vector().values())))


def test_what_cannot_be_counted_is_refused_on_one_line(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["input"], ["logits"])]
    with pytest.raises(UserError, match="'input' has no fixed size"):
        graph_costs(model(relu, {}, (1, "n", 4)), "fp32")
    with pytest.raises(UserError, match="precision 'fp8' is not one of fp32, fp16, bf16, int8"):
        graph_costs(model(relu, {}, (1, 4)), "fp8")
    with pytest.raises(UserError, match="cannot be read"):
        graph_costs(tmp_path / "missing.onnx", "fp32")
    (tmp_path / "other.onnx").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"other\.onnx is not an ONNX file"):
        graph_costs(tmp_path / "other.onnx", "fp32")


@pytest.mark.parametrize("form", ["plain", "tokens", "channels_first"])
def test_all_export_forms_have_the_work_of_the_network(tmp_path: Path, form: Any) -> None:
    from autocompress.bundles.export import export_onnx
    from autocompress.config import CompressionConfig
    from autocompress.models import build
    from autocompress.models.complexity import complexity

    network = build("dae-former", CompressionConfig(32, levels=1, width=0.125), in_channels=1, num_classes=9)
    export_onnx(network, tmp_path / "m.onnx", in_channels=1, resolution=32, form=form)
    costs = graph_costs(tmp_path / "m.onnx", "fp32")
    counted = complexity(network, 1, 32)
    # The forms fold some weights into others, which in so small a network is a fifth more or less.
    assert costs.macs == pytest.approx(1e9 * counted.gmacs, rel=0.3)
    assert costs.weight_bytes == pytest.approx(4 * counted.parameters, rel=0.2)
    assert not costs.of_kind("other")
    assert len(costs.of_kind("gelu")) == 4  # two dual blocks with two MixFFN each
    onnx.checker.check_model(onnx.load(str(tmp_path / "m.onnx")))
