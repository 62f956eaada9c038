"""FP16 models (step D): weights and computation in float16, with the fragile operators kept in float32.

Half precision ends at 65504 and loses small numbers: the squares inside a normalisation overflow, and a softmax over
many tokens sums what it can no longer see. A LayerNorm made of Pow, ReduceMean and Sqrt took a ViT-B/16 to 19 % top-1
on a Jetson Nano. So these operators, and the arithmetic between them, stay in float32, with casts at their borders.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autocompress.compression.onnx_graph import drop_identities, load_graph
from autocompress.errors import ConfigError
from autocompress.paths import write_bytes

FRAGILE = frozenset(
    {
        "BatchNormalization",
        "Exp",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "LogSoftmax",
        "LpNormalization",
        "MeanVarianceNormalization",
        "Pow",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "Softmax",
        "Sqrt",
    }
)
_BETWEEN = frozenset(
    {"Add", "Clip", "Div", "Expand", "Identity", "Max", "Min", "Mul", "Neg", "Reshape", "Sub", "Transpose"}
)
"""Operators that join the fragile ones where they lie between them: an epsilon, a centring, a scaling."""
_FLOAT32_INPUTS = {"Resize": (1, 2), "Upsample": (1,), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
"""Inputs that an operator wants in float32 whatever its data is."""
_LARGEST = 65504.0


def to_half(source: Path, target: Path) -> None:
    """Write a float32 model as float16; its input and output stay float32.

    Raises:
        ConfigError: the file is not ONNX, holds control flow, or its types cannot be inferred.
    """
    model = load_graph(source)
    graph = model.graph
    drop_identities(graph)
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for n in graph.node for a in n.attribute):
        raise ConfigError(f"{source}: FP16 conversion knows no control flow (If, Loop, Scan); export without it")
    floats = _float_tensors(model, source)
    protected = _protected(graph)
    builder = _Builder(graph, floats, protected)
    builder.build()
    del graph.value_info[:]
    converted = onnx.shape_inference.infer_shapes(model, check_type=True)
    onnx.checker.check_model(converted)
    write_bytes(target, converted.SerializeToString())


def _float_tensors(model: Any, source: Path) -> frozenset[str]:
    """Names of all float32 tensors: inputs, constants and results."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in _values(graph)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node in model.graph.node:
        for output in node.output:
            if output and types.get(output, 0) == 0:
                raise ConfigError(
                    f"{source}: the type of {output!r} ({node.op_type}) is unknown; FP16 needs standard operators"
                )
    return frozenset(name for name, kind in types.items() if kind == TensorProto.FLOAT)


def _values(graph: Any) -> Iterable[Any]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info


def _protected(graph: Any) -> frozenset[int]:
    """Indices of the nodes that stay in float32."""
    nodes = list(graph.node)
    producer = {output: i for i, node in enumerate(nodes) for output in node.output}
    consumers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.input:
            consumers.setdefault(name, []).append(i)
    kept = {i for i, node in enumerate(nodes) if node.op_type in FRAGILE}
    # A division by a norm or a deviation is the last step of a normalisation.
    for i, node in enumerate(nodes):
        if node.op_type == "Div" and _comes_from_fragile(node.input[1], nodes, producer, kept):
            kept.add(i)
    grown = True
    while grown:
        grown = False
        for i, node in enumerate(nodes):
            if i in kept or node.op_type not in _BETWEEN:
                continue
            after = [c for output in node.output for c in consumers.get(output, [])]
            if after and all(c in kept for c in after):
                kept.add(i)
                grown = True
    return frozenset(kept)


def _comes_from_fragile(name: str, nodes: list[Any], producer: dict[str, int], kept: set[int]) -> bool:
    """Whether a value is a fragile operator's result, changed at most in form or by a bound."""
    while name in producer:
        index = producer[name]
        if index in kept:
            return True
        if nodes[index].op_type not in _BETWEEN or not nodes[index].input:
            return False
        name = nodes[index].input[0]
    return False


class _Builder:
    """Rewrites a graph in place: a type for every node, and a cast wherever two types meet."""

    def __init__(self, graph: Any, floats: frozenset[str], protected: frozenset[int]) -> None:
        self.graph = graph
        self.protected = protected
        self.floats = set(floats)
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.constants: dict[tuple[str, int], Any] = {}
        self.casts: dict[tuple[str, int], str] = {}
        self.kinds: dict[str, int] = {}
        self.nodes: list[Any] = []

    def build(self) -> None:
        outputs = self._rename_outputs()
        self.kinds.update({value.name: value.type.tensor_type.elem_type for value in self.graph.input})
        for index, node in enumerate(self.graph.node):
            kind = TensorProto.FLOAT if index in self.protected else TensorProto.FLOAT16
            for position, name in enumerate(node.input):
                if name in self.floats:
                    pinned = position in _FLOAT32_INPUTS.get(node.op_type, ())
                    node.input[position] = self._in_kind(name, TensorProto.FLOAT if pinned else kind)
            if kind == TensorProto.FLOAT16:
                _halve_attributes(node)
            self.kinds.update({name: kind for name in node.output if name in self.floats})
            self.nodes.append(node)
        self.nodes += [_cast(inner, outer, TensorProto.FLOAT) for outer, inner in outputs.items()]
        _replace(self.graph.node, self.nodes)
        # What was float32 and is used by no node any more goes.
        used = {name for node in self.nodes for name in node.input}
        others = [tensor for tensor in self.stored.values() if tensor.name in used and tensor.name not in self.floats]
        _replace(self.graph.initializer, [*others, *self.constants.values()])
        _replace(self.graph.input, [value for value in self.graph.input if value.name not in self.stored])

    def _rename_outputs(self) -> dict[str, str]:
        """Free the names of the outputs that will be computed in float16, for the casts that follow them."""
        halves = {name for i, node in enumerate(self.graph.node) if i not in self.protected for name in node.output}
        renamed = {v.name: f"{v.name}_fp16" for v in self.graph.output if v.name in halves & self.floats}
        for node in self.graph.node:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    names[position] = renamed.get(name, name)
        self.floats.update(renamed.values())
        return renamed

    def _in_kind(self, name: str, kind: int) -> str:
        """The name of a float tensor in the wanted type, converted where it has the other one."""
        if name in self.stored:
            new = f"{name}_fp16" if kind == TensorProto.FLOAT16 else name
            if (name, kind) not in self.constants:
                self.constants[name, kind] = _constant(self.stored[name], new, kind)
            return new
        if self.kinds[name] == kind:
            return name
        if (name, kind) not in self.casts:
            new = f"{name}_{'fp16' if kind == TensorProto.FLOAT16 else 'fp32'}_cast"
            self.nodes.append(_cast(name, new, kind))
            self.casts[name, kind] = new
        return self.casts[name, kind]


def _replace(field: Any, values: Iterable[Any]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)


def _cast(source: str, target: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [target], name=f"Cast_{target}", to=kind)


def _constant(tensor: Any, name: str, kind: int) -> Any:
    values = np.asarray(numpy_helper.to_array(tensor))
    if kind == TensorProto.FLOAT16:
        # A mask of -1e9 must become a large number, not an infinity that turns into NaN.
        values = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
    return numpy_helper.from_array(values, name)


def _halve_attributes(node: Any) -> None:
    """Float32 tensors and types that a node carries itself (Constant, ConstantOfShape, Cast)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_constant(attribute.t, attribute.t.name, TensorProto.FLOAT16))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
