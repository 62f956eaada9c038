"""Shapes and constants of a graph, node by node: what an engine knows after it has folded constants.

ONNX's own inference stops where a network computes a shape (``Shape``, ``Slice``, ``Reshape``), as the plain export
does; following the constants through those operators it gets everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, numpy_helper

from autocompress.errors import UserError

_SMALL = 4096
"""Constants with more elements are weights: their values decide no shape."""


@dataclass(frozen=True)
class Tensor:
    """What is known about a tensor without running anything.

    Attributes:
        shape: of fixed size.
        type: `onnx.TensorProto.DataType`.
        constant: whether it is the same for every input, so that an engine computes it once when it loads the model.
        initializer: name of the stored tensor (an initializer, or the output of a ``Constant`` node) that a constant
            was made of by changes of form alone; empty for none.
    """

    shape: tuple[int, ...]
    type: int
    constant: bool = False
    initializer: str = ""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


_FORM_ONLY = frozenset({"Identity", "Cast", "DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})


def tensors(model: Any) -> dict[str, Tensor]:
    """All tensors of an `onnx.ModelProto` by name.

    Raises:
        UserError: the model's input has no fixed size, or an operator's outputs cannot be known.
    """
    found: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for each in model.graph.initializer:
        found[each.name] = Tensor(tuple(each.dims), each.data_type, True, each.name)
        if found[each.name].elements <= _SMALL and not each.external_data:
            values[each.name] = each
    for value in model.graph.input:
        if value.name not in found:
            found[value.name] = _declared(value, f"the model's input {value.name!r}")
    for node in model.graph.node:
        constant = all(not name or found[name].constant for name in node.input) or node.op_type == "Shape"
        results = _evaluated(node, found, values, model) if constant else None
        if results is not None:
            values.update(results)
            outputs = {name: Tensor(tuple(each.dims), each.data_type) for name, each in results.items()}
        else:
            outputs = _inferred(node, found, values, model)
        source = node.output[0] if node.op_type == "Constant" else ""
        if node.op_type in _FORM_ONLY:
            source = found[node.input[0]].initializer
        for name, tensor in outputs.items():
            found[name] = Tensor(tensor.shape, tensor.type, constant, source if constant else "")
    return found


def _evaluated(node: Any, found: Mapping[str, Tensor], values: Mapping[str, Any], model: Any) -> dict[str, Any] | None:
    """Values of a node's outputs, where its inputs' values are known and small; else None."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "Shape" and not node.attribute:
        sizes = helper.make_tensor(node.output[0], onnx.TensorProto.INT64, [len(s := found[node.input[0]].shape)], s)
        return {node.output[0]: sizes}
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        tensor = node.attribute[0].t
        return {node.output[0]: tensor} if math.prod(tensor.dims) <= _SMALL else None
    if any(name and name not in values for name in node.input):
        return None
    try:
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        feed = {name: numpy_helper.to_array(values[name]) for name in node.input if name}
        results = ReferenceEvaluator(node, opsets=opsets).run(None, feed)
        arrays = {name: numpy_helper.from_array(each, name) for name, each in zip(node.output, results, strict=True)}
    except Exception:  # an operator that the evaluator does not have, in any of its ways to say so
        return None
    return arrays if all(math.prod(each.dims) <= _SMALL for each in arrays.values()) else None


def _inferred(node: Any, found: Mapping[str, Tensor], values: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """A node's outputs by ONNX's inference for that node alone, with the constants that it reads."""
    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = [helper.make_tensor_value_info(name, found[name].type, found[name].shape) for name in names]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    constants = []
    for name in names:
        if name in values:
            constant = onnx.TensorProto()
            constant.CopyFrom(values[name])
            constant.name = name
            constants.append(constant)
    graph = helper.make_graph([node], "one", inputs, outputs, constants)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        inferred = onnx.shape_inference.infer_shapes(alone, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise UserError(f"the model's operator {node.op_type} contradicts its inputs' shapes") from error
    return {each.name: _declared(each, f"the output of an operator {node.op_type}") for each in inferred.graph.output}


def _declared(value: Any, what: str) -> Tensor:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not axis.HasField("dim_value") for axis in kind.shape.dim):
        raise UserError(f"{what} has no fixed size, so that nothing can be predicted")
    return Tensor(tuple(int(axis.dim_value) for axis in kind.shape.dim), kind.elem_type)
