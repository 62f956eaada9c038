"""What the compression steps need to know about an exported graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from autocompress.errors import ConfigError

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Weight:
    """A constant operand of a convolution or a matrix product.

    Attributes:
        node: name of the node.
        operation: its operator.
        values: as stored; integers where the weight is quantized.
        zero: the stored value that means zero; an array that broadcasts where it differs by channel.
        groups: of a convolution, else 1.
    """

    node: str
    operation: str
    values: NDArray[Any]
    zero: NDArray[Any] | int
    groups: int


def load_graph(path: Path | str) -> Any:
    """Read an ONNX model.

    Raises:
        ConfigError: the file is missing or is not ONNX.
    """
    try:
        return onnx.load(str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"ONNX file not found: {path}") from error
    except Exception as error:  # protobuf's DecodeError differs by version
        raise ConfigError(f"cannot read {path} as ONNX: {' '.join(str(error).split())}") from error


def drop_identities(graph: Any) -> None:
    """Let nodes read constants directly; the exporter writes Identity nodes where two constants are equal."""
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    sources: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = sources.get(name, name)
        if node.op_type == "Identity" and node.input[0] in constants and node.output[0] not in outputs:
            sources[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def constant_weights(path: Path | str) -> list[Weight]:
    """The constant operands with at least two dimensions above 1, in the graph's order of execution."""
    graph = load_graph(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    found: list[Weight] = []
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        for name in node.input[:2]:
            stored = _stored(name, constants, producers)
            if stored is None:
                continue
            values, zero = stored
            if sum(size > 1 for size in values.shape) >= 2:
                found.append(Weight(node.name, node.op_type, values, zero, groups))
    return found


def _stored(name: str, constants: dict[str, Any], producers: dict[str, Any]) -> tuple[NDArray[Any], Any] | None:
    """The array behind a name and its zero, looked up through the nodes that only change a constant's form."""
    if name in constants:
        return np.asarray(numpy_helper.to_array(constants[name])), 0
    node = producers.get(name)
    if node is None or node.op_type not in ("DequantizeLinear", "Cast", "Transpose", "Identity"):
        return None
    inner = _stored(node.input[0], constants, producers)
    if inner is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
        return inner
    values = inner[0]
    points = np.asarray(numpy_helper.to_array(constants[node.input[2]]))
    if points.ndim == 0 or points.size == 1:
        return values, int(points.reshape(-1)[0])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    return values, points.reshape(shape)
