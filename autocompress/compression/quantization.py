"""INT8 models (step D) after training: QuantizeLinear and DequantizeLinear around convolutions and matrix products.

The file states each scale, and every engine that knows this form (ONNX Runtime, OpenVINO, TensorRT) runs the operator
between in integers. Weights are int8, symmetric, one scale a channel: zero stays zero, so pruned ones
stay pruned. Activations have one scale a tensor.

In float32 stay, because they cost more accuracy than they save time: the first layer (it sees the image) and the last
(it draws the edges between classes), and products of two activations (the attention's: a twelfth of the work, and a
softmax over thousands of tokens has no use for 256 levels). Constants that such a product multiplies from the left are
kept as integers in the file and multiplied as floats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from autocompress.compression.onnx_graph import drop_identities, load_graph
from autocompress.compression.ranges import Observed, find_ranges
from autocompress.data.dataset import FloatArray
from autocompress.errors import ConfigError
from autocompress.paths import write_bytes

MIN_OPSET = 13
"""DequantizeLinear has one scale a channel from here."""


@dataclass(frozen=True)
class Activations:
    """The integers that activations become.

    Attributes:
        symmetric: int8 around zero, as TensorRT wants it; else uint8 with a zero point, which has a bit more to say
            about what follows a GELU and is what x86 multiplies fastest.
    """

    symmetric: bool = False

    @property
    def kind(self) -> type[np.int8] | type[np.uint8]:
        return np.int8 if self.symmetric else np.uint8

    def scale_and_zero(self, low: float, high: float) -> tuple[np.float32, np.int8 | np.uint8]:
        """Scale and zero point for values from ``low`` to ``high``; zero is always represented exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric:
            return np.float32(max(-low, high, _TINY) / 127), np.int8(0)
        scale = max(high - low, _TINY) / 255
        return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255))


_LARGE = 1024  # numbers; smaller constants are not worth the nodes
_TINY = 1e-8  # a tensor that is always zero still needs a scale


@dataclass(frozen=True)
class Plan:
    """Which nodes become integers, and the ranges that this needs.

    Attributes:
        source: the float32 model.
        nodes: chosen nodes by the name of what they compute, in the graph's order.
        ranges: what each tensor that is quantized holds.
    """

    source: Path
    nodes: tuple[str, ...]
    ranges: dict[str, Observed]


def candidates(source: Path) -> tuple[str, ...]:
    """Nodes that can be quantized, by the name of what they compute: all but the first and the last of their kind.

    Raises:
        ConfigError: the opset is too old, or there is nothing to quantize.
    """
    model = load_graph(source)
    drop_identities(model.graph)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise ConfigError(f"{source}: INT8 needs opset {MIN_OPSET} or higher, the file has {opset}; export it anew")
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    names = tuple(node.output[0] for node in model.graph.node if _quantizable(node, ranks))[1:-1]
    if not names:
        raise ConfigError(f"{source}: nothing to quantize between the first layer and the last")
    return names


def plan(source: Path, samples: FloatArray, *, exclude: Collection[str] = (), threads: int | None = None) -> Plan:
    """Observe the model on the samples.

    Args:
        source: float32 ONNX, opset 13 or higher.
        samples: calibration images N x channels x R x R, of training slices.
        exclude: of `candidates`, those that stay in float32.
        threads: of ONNX Runtime; None for all cores.

    Raises:
        ConfigError: the model is unfit, or cannot be run on the samples.
    """
    nodes = tuple(name for name in candidates(source) if name not in set(exclude))
    graph = load_graph(source).graph
    drop_identities(graph)
    observed = _observed(graph, nodes)
    return Plan(source, nodes, find_ranges(source, observed, samples, threads=threads))


def write_int8(plan: Plan, target: Path, *, nodes: Collection[str] | None = None, symmetric: bool = False) -> None:
    """Write the INT8 model; its input and output stay float32.

    Args:
        plan: see `plan`.
        target: file to write, in one step.
        nodes: quantize only these of the plan's.
        symmetric: see `Activations`.
    """
    model = load_graph(plan.source)
    drop_identities(model.graph)
    chosen = set(plan.nodes if nodes is None else nodes)
    _part_biases(model.graph, chosen, plan.ranges)
    _Quantizer(model.graph, chosen, plan.ranges, Activations(symmetric)).rewrite()
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    write_bytes(target, model.SerializeToString())


def _quantizable(node: Any, ranks: Mapping[str, int]) -> bool:
    """Whether a node multiplies something by a constant weight; ``ranks`` has the dimensions of each constant."""
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return False
    weight = node.input[1]
    if weight not in ranks or node.input[0] in ranks:
        return False
    if node.op_type == "MatMul" and ranks[weight] != 2:
        return False  # a stack of matrices has no scale for each channel
    attributes = {a.name: a for a in node.attribute}
    plain = all(attributes[name].f == 1.0 for name in ("alpha", "beta") if name in attributes)
    return node.op_type != "Gemm" or (plain and not ("transA" in attributes and attributes["transA"].i))


def _observed(graph: Any, chosen: Collection[str]) -> list[str]:
    """Tensors whose ranges are needed: inputs of the chosen nodes, and what convolutions give (see `_Quantizer`)."""
    names: dict[str, None] = {}
    for node in graph.node:
        if node.output[0] in chosen:
            names[node.input[0]] = None
            if node.op_type == "Conv":
                names[node.output[0]] = None
    return list(names)


def _part_biases(graph: Any, chosen: Collection[str], ranges: dict[str, Observed]) -> None:
    """Give the biases behind chosen matrix products a shape of three dimensions.

    ONNX Runtime merges a product and a bias of one dimension into a float Gemm *before* it looks for integers, and a
    two-level DAE-Former then runs 48 of its 56 products in float. A bias of shape 1 x 1 x N adds the same and is not
    merged.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = {
        node.output[0]
        for node in graph.node
        if node.op_type == "MatMul" and node.output[0] in chosen and ranges[node.input[0]].rank >= 3
    }
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for position, name in enumerate(node.input):
            if node.input[1 - position] in products and name in constants and len(constants[name].dims) == 1:
                new = f"{name}_1x1xN"
                if new not in constants:
                    values = np.asarray(numpy_helper.to_array(constants[name])).reshape(1, 1, -1)
                    constants[new] = numpy_helper.from_array(values, new)
                    graph.initializer.append(constants[new])
                node.input[position] = new


class _Quantizer:
    """Rewrites a graph in place."""

    def __init__(
        self,
        graph: Any,
        chosen: Collection[str],
        ranges: dict[str, Observed],
        activations: Activations,
    ) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.chosen = chosen
        self.activations = activations
        self.scales = {name: activations.scale_and_zero(seen.low, seen.high) for name, seen in ranges.items()}
        self.new: dict[str, Any] = {}
        self.nodes: list[Any] = []
        self.done: dict[str, str] = {}
        self.weights: dict[tuple[str, int], tuple[str, NDArray[np.float32]]] = {}

    def rewrite(self) -> None:
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            # ONNX Runtime runs a convolution in integers only where its result is quantized as well.
            ends = node.op_type == "Conv" and node.output[0] in self.chosen and node.output[0] not in outputs
            if node.output[0] in self.chosen:
                self._quantize_operands(node)
            elif node.op_type == "MatMul":
                self._store_small(node)
            if ends:
                name = node.output[0]
                node.output[0] = f"{name}_float"
                self.nodes.append(node)
                self._pair(node.output[0], name, self.scales[name])
                self.done[name] = name
            else:
                self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*kept, *self.new.values()])

    def _quantize_operands(self, node: Any) -> None:
        source = node.input[0]
        if source not in self.done:
            self.done[source] = f"{source}_dq"
            self._pair(source, self.done[source], self.scales[source])
        node.input[0] = self.done[source]
        axis = _channel_axis(node)
        node.input[1], scales = self._weight(node.input[1], axis)
        # TensorRT takes biases in float only.
        if len(node.input) > 2 and node.input[2] in self.constants and not self.activations.symmetric:
            node.input[2] = self._bias(node.input[2], node.output[0], self.scales[source][0] * scales)

    def _store_small(self, node: Any) -> None:
        """Keep a large constant as integers with scales where no engine multiplies it as such, for the file's size.

        That is a matrix on the left, or a stack of matrices; one on the right was left in float on purpose.
        """
        for position, axis, rank in ((0, -2, 2), (1, -1, 3)):
            constant = self.constants.get(node.input[position])
            if constant is not None and len(constant.dims) >= rank and np.prod(constant.dims) >= _LARGE:
                node.input[position], _ = self._weight(constant.name, axis)

    def _pair(self, source: str, target: str, scale_and_zero: tuple[np.float32, Any]) -> None:
        """QuantizeLinear and DequantizeLinear from one name to another."""
        scale, zero = scale_and_zero
        names = [self._add(f"{target}_scale", np.asarray(scale)), self._add(f"{target}_zero", np.asarray(zero))]
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"{target}_q"], name=f"Q_{target}"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{target}_q", *names], [target], name=f"DQ_{target}"))

    def _weight(self, name: str, axis: int) -> tuple[str, NDArray[np.float32]]:
        """A weight as int8 with one scale a channel; the name of its dequantized form, and the scales."""
        axis %= len(self.constants[name].dims)  # products of two kinds may share a weight
        if (name, axis) not in self.weights:
            values = np.asarray(numpy_helper.to_array(self.constants[name]), dtype=np.float32)
            others = tuple(i for i in range(values.ndim) if i != axis)
            scales = np.maximum(np.abs(values).max(axis=others) / 127, _TINY).astype(np.float32)
            shape = [-1 if i == axis else 1 for i in range(values.ndim)]
            stored = np.clip(np.rint(values / scales.reshape(shape)), -127, 127).astype(np.int8)
            new = f"{name}_w{axis}"
            inputs = [self._add(f"{new}_q", stored), self._add(f"{new}_scale", scales)]
            inputs.append(self._add(f"zeros_{scales.size}", np.zeros(scales.size, np.int8)))
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [new], name=f"DQ_{new}", axis=axis))
            self.weights[name, axis] = (new, scales)
        return self.weights[name, axis]

    def _bias(self, name: str, owner: str, scales: NDArray[np.float32]) -> str:
        """A bias as int32 in units of the products, as integer kernels add it."""
        values = np.asarray(numpy_helper.to_array(self.constants[name]), dtype=np.float64).reshape(-1)
        stored = np.clip(np.rint(values / scales), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        new = f"{owner}_bias"
        inputs = [self._add(f"{new}_q", stored), self._add(f"{new}_scale", scales.astype(np.float32))]
        inputs.append(self._add(f"zeros32_{stored.size}", np.zeros(stored.size, np.int32)))
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [new], name=f"DQ_{new}", axis=0))
        return new

    def _add(self, name: str, values: NDArray[Any]) -> str:
        self.new.setdefault(name, numpy_helper.from_array(values, name))
        return name


def _channel_axis(node: Any) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return -1
