"""What a network costs, operator by operator: arithmetic, memory traffic and launches, read from its exported file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.config import PRECISIONS
from autocompress.errors import UserError
from autocompress.hardware.prediction.patterns import Fusion, find_fusions

ARITHMETIC_KINDS = ("conv_dense", "conv_pointwise", "conv_depthwise", "matmul_weights", "matmul_activations")
"""Operators that are counted in multiply-accumulates."""
MOVING_KINDS = ("softmax", "norm", "gelu", "elementwise", "layout", "resize", "quantize", "other")
"""Operators whose time is that of their memory traffic."""
KINDS = ARITHMETIC_KINDS + MOVING_KINDS

_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an element by `onnx.TensorProto.DataType`."""
_FLOAT, _FLOAT16, _INT8 = 1, 10, (2, 3)

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_LAYOUT = frozenset(
    {"Transpose", "Slice", "Concat", "Split", "Gather", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth"}
)
_NORMS = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"})
_OTHER_KINDS = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "Erf": "gelu",
    "Gelu": "gelu",
    "Resize": "resize",
    "Upsample": "resize",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "quantize",
    "Cast": "quantize",
}
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Neg", "Abs", "Reciprocal", "Min", "Max", "Where"}
    | {"Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus"}
    | {"Equal", "Greater", "Less", "Not", "And", "Or", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"}
    | {"ReduceL1", "ReduceL2", "ReduceSumSquare"}
)


@dataclass(frozen=True)
class NodeCost:
    """What one operator costs, with those that an engine fuses into it.

    Attributes:
        kind: one of `KINDS`.
        arithmetic: number format in which it computes.
        macs: multiply-accumulates; 0 for kinds that only move data.
        activation_bytes: read and written, each tensor once.
        weight_bytes: read.
        zeros: share of the weight's values that are zero, 0 to 1.
        narrowest: smallest side of the matrix product that it is, or a depthwise convolution's channels: few of them
            leave arithmetic units idle. 0 for kinds that only move data.
    """

    kind: str
    arithmetic: str
    macs: int
    activation_bytes: int
    weight_bytes: int = 0
    zeros: float = 0.0
    narrowest: int = 0

    @property
    def bytes(self) -> int:
        """All memory traffic in bytes."""
        return self.activation_bytes + self.weight_bytes


@dataclass(frozen=True)
class GraphCosts:
    """What a network costs for one image.

    Attributes:
        precision: of the configuration: fp32, fp16, bf16 or int8.
        nodes: in the order of execution; views, constants and fused operators left out. Each is one launch.
        weight_bytes: of all stored tensors, as the engine keeps them.
        peak_activation_bytes: most bytes of activations that are alive at one node: made already and still wanted.
    """

    precision: str
    nodes: tuple[NodeCost, ...]
    weight_bytes: int
    peak_activation_bytes: int

    @property
    def launches(self) -> int:
        """Operators that an engine executes."""
        return len(self.nodes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all operators."""
        return sum(node.macs for node in self.nodes)

    @property
    def activation_bytes(self) -> int:
        """Activations read and written by all operators, in bytes."""
        return sum(node.activation_bytes for node in self.nodes)

    @property
    def zeros(self) -> float:
        """Share of the multiply-accumulates that have a weight of zero, 0 to 1."""
        return sum(node.macs * node.zeros for node in self.nodes) / max(1, self.macs)

    def of_kind(self, *kinds: str) -> tuple[NodeCost, ...]:
        """The operators of some kinds."""
        return tuple(node for node in self.nodes if node.kind in kinds)

    def vector(self) -> dict[str, float]:
        """Named features for a regression: logarithms of counts (of 1 + count), and shares from 0 to 1."""
        features = {
            "log_macs": math.log1p(self.macs),
            "log_bytes": math.log1p(sum(node.bytes for node in self.nodes)),
            "log_weight_bytes": math.log1p(self.weight_bytes),
            "log_peak_bytes": math.log1p(self.peak_activation_bytes),
            "log_launches": math.log1p(self.launches),
            "zeros": self.zeros,
        }
        for kind in KINDS:
            chosen = self.of_kind(kind)
            if kind in ARITHMETIC_KINDS:
                features[f"log_macs_{kind}"] = math.log1p(sum(node.macs for node in chosen))
            else:
                features[f"log_bytes_{kind}"] = math.log1p(sum(node.activation_bytes for node in chosen))
            features[f"log_launches_{kind}"] = math.log1p(len(chosen))
        for precision in PRECISIONS:
            features[f"is_{precision}"] = float(self.precision == precision)
        return features


def graph_costs(model: Path | Any, precision: str) -> GraphCosts:
    """Read a network's costs from its exported file; nothing is run.

    Args:
        model: ONNX file, or an `onnx.ModelProto`, in any of the project's export forms and precisions; or the file of
            an exported program.
        precision: number format that the engine computes in. bf16 is a float32 file whose values are kept in 2 bytes.

    Raises:
        UserError: the precision is unknown, the file is missing or neither, or its shapes cannot be known.
    """
    from autocompress.bundles.exported_program import is_exported_program, read_exported_program
    from autocompress.hardware.gate import parse
    from autocompress.hardware.prediction.shapes import tensors

    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if isinstance(model, Path) and is_exported_program(model):
        from autocompress.hardware.prediction.programs import program_costs

        if precision == "int8":
            raise UserError(f"{model.name} is an exported program, which torch does not run in int8")
        return program_costs(read_exported_program(model), precision)
    if isinstance(model, Path):
        try:
            model, path = parse(model.read_bytes()), model
        except OSError as error:
            raise UserError(f"{model} cannot be read: {error.strerror}") from error
        if model is None:
            raise UserError(f"{path} is not an ONNX file")
    return _Count(model, precision, tensors(model)).run()


@dataclass
class _Count:
    """One pass over a graph."""

    model: Any
    precision: str
    tensors: Mapping[str, Any]
    same: dict[str, str] = field(default_factory=dict)
    """Names of tensors that are another one in memory: a view, or a number format that is never written out."""
    costs: list[NodeCost] = field(default_factory=list)
    steps: list[tuple[list[str], str]] = field(default_factory=list)
    """Of each counted operator the activations that it reads, and the one that it writes."""
    written: dict[str, list[str]] = field(default_factory=dict)

    def run(self) -> GraphCosts:
        graph = self.model.graph
        self.stored = {each.name: each for each in graph.initializer}
        for node in graph.node:  # the exporter may also write weights as nodes
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.stored[node.output[0]] = node.attribute[0].t
        self.fusions: Fusion = find_fusions(graph, self.tensors)
        for node in graph.node:
            if not self.tensors[node.output[0]].constant and node.output[0] not in self.fusions.members:
                self._node(node)
        weights = sum(math.prod(each.dims) * self._element(each.data_type) for each in self.stored.values())
        return GraphCosts(self.precision, tuple(self.costs), weights, self._peak())

    def _node(self, node: Any) -> None:
        inputs = [name for name in self.fusions.reads.get(node.output[0], node.input) if name]
        outputs = [name for name in node.output if name and name in self.tensors]
        final = self.fusions.writes.get(node.output[0])
        if final is not None:
            outputs = [final]
        if self._moves_nothing(node):
            self.same[outputs[0]] = self._place(inputs[0])
            return
        activations = [self._place(name) for name in inputs if not self.tensors[name].constant]
        traffic = sum(self._bytes(name) for name in {*activations}) + sum(self._bytes(name) for name in outputs)
        self.steps.append((activations, outputs[0]))
        self.written[outputs[0]] = outputs
        kind, arithmetic, macs, narrowest = self._kind(node)
        # Only products read weights worth counting; a constant in a sum is a bias or a number.
        weight = next((name for name in inputs[:2] if self.tensors[name].constant), "") if macs else ""
        count, zeros = self._weight(weight) if weight else (0, 0.0)
        self.costs.append(NodeCost(kind, arithmetic, macs, traffic, count, zeros, narrowest))

    def _moves_nothing(self, node: Any) -> bool:
        source, result = self.tensors[node.input[0]], self.tensors[node.output[0]]
        if node.op_type in _VIEWS:
            return True
        if node.op_type == "Cast":
            return source.type == result.type or (self.precision == "bf16" and {source.type, result.type} <= {1, 16})
        if node.op_type == "Transpose":
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            order = order or list(range(len(source.shape)))[::-1]
            moved = [axis for axis in order if source.shape[axis] != 1]
            return moved == sorted(moved)
        return node.op_type == "DequantizeLinear" and node.output[0] in self.fusions.free

    def _kind(self, node: Any) -> tuple[str, str, int, int]:
        """Kind, number format, multiply-accumulates and narrowest side."""
        out = self.tensors[node.output[0]]
        operator = node.op_type
        if operator in ("Conv", "ConvTranspose"):
            weight = self.tensors[node.input[1]].shape
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            if operator == "Conv":
                macs, reduced, made = out.elements * math.prod(weight[1:]), math.prod(weight[1:]), weight[0] // groups
            else:
                macs = self.tensors[node.input[0]].elements * math.prod(weight[1:])
                reduced, made = weight[0] // groups, math.prod(weight[1:])
            if groups > 1 and groups == self.tensors[node.input[0]].shape[1]:
                return "conv_depthwise", self._arithmetic(node), macs, groups
            kind = "conv_pointwise" if math.prod(weight[2:]) == 1 and groups == 1 else "conv_dense"
            pixels = math.prod(out.shape[2:])
            return kind, self._arithmetic(node), macs, min(reduced, made, pixels)
        if operator in ("MatMul", "Gemm"):
            left, right = self.tensors[node.input[0]], self.tensors[node.input[1]]
            turned = operator == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
            reduced = left.shape[0] if turned else left.shape[-1]
            by_weights = left.constant or right.constant
            # Rows of all batches make one product only where the other operand is the same for them.
            rows = out.elements // out.shape[-1] if by_weights else out.shape[-2] if len(out.shape) > 1 else 1
            kind = "matmul_weights" if by_weights else "matmul_activations"
            return kind, self._arithmetic(node), out.elements * reduced, min(rows, reduced, out.shape[-1])
        kind = _OTHER_KINDS.get(operator, "other")
        if operator in _NORMS or node.output[0] in self.fusions.norms:
            kind = "norm"
        elif operator == "Erf" and node.output[0] not in self.fusions.writes:
            kind = "elementwise"
        elif operator in _LAYOUT:
            kind = "layout"
        elif operator in _ELEMENTWISE:
            kind = "elementwise"
        return kind, self._format(out.type), 0, 0

    def _arithmetic(self, node: Any) -> str:
        if node.output[0] in self.fusions.integer:
            return "int8"
        return self._format(self.tensors[node.output[0]].type)

    def _format(self, element: int) -> str:
        if element in _INT8:
            return "int8"
        if element == _FLOAT16:
            return "fp16"
        return "bf16" if self.precision == "bf16" else "fp32"

    def _weight(self, name: str) -> tuple[int, float]:
        """Stored bytes of a weight and its share of zeros."""
        tensor = self.tensors[name]
        stored = self.stored.get(tensor.initializer)
        if stored is None:
            return tensor.elements * self._element(tensor.type), 0.0
        count = math.prod(stored.dims) * self._element(stored.data_type)
        return count, 0.0 if stored.external_data else _zeros(stored)

    def _place(self, name: str) -> str:
        return self.same.get(name, name)

    def _bytes(self, name: str) -> int:
        tensor = self.tensors[name]
        return int(tensor.elements * self._element(tensor.type))

    def _element(self, kind: int) -> int:
        return 2 if self.precision == "bf16" and kind == _FLOAT else _ELEMENT_BYTES.get(kind, 4)

    def _peak(self) -> int:
        """As `autocompress.hardware.gate.estimate_memory` counts, but with views and fused operators left out."""
        last = {name: index for index, (reads, _) in enumerate(self.steps) for name in reads}
        last |= {self._place(value.name): len(self.steps) for value in self.model.graph.output}
        given = [v.name for v in self.model.graph.input if not self.tensors[v.name].constant]
        alive = peak = sum(self._bytes(name) for name in given)
        for index, (reads, output) in enumerate(self.steps):
            alive += sum(self._bytes(name) for name in self.written[output])
            peak = max(peak, alive)
            alive -= sum(self._bytes(name) for name in {*reads} if last[name] == index)
            alive -= sum(self._bytes(name) for name in self.written[output] if name not in last)
        return peak


def _zeros(stored: Any) -> float:
    from onnx import numpy_helper

    values = numpy_helper.to_array(stored)
    return float(np.mean(values == 0)) if values.size else 0.0
