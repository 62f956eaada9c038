"""Operators that every engine here runs as one: what an export writes in several pieces is one pass over memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_CHEAP = frozenset({"Relu", "Clip", "LeakyRelu"})
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


@dataclass
class Fusion:
    """Which nodes of a graph disappear into others; nodes are known by the name of their first output.

    Attributes:
        members: nodes that are part of another one's pass.
        reads: inputs of the nodes that stay, where they are not the node's own.
        writes: output of the nodes that stay, where it is not the node's own.
        norms: nodes that stand for a normalisation.
        integer: products whose operands are both int8.
        free: DequantizeLinear nodes whose result is never written out.
    """

    members: set[str] = field(default_factory=set)
    reads: dict[str, list[str]] = field(default_factory=dict)
    writes: dict[str, str] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    integer: set[str] = field(default_factory=set)
    free: set[str] = field(default_factory=set)


def find_fusions(graph: Any, tensors: Mapping[str, Any]) -> Fusion:
    """Recognise GELU, normalisation, bias and activation behind a product, and int8 products.

    Args:
        graph: of an `onnx.ModelProto`.
        tensors: as `autocompress.hardware.prediction.shapes.tensors` gives them.
    """
    finder = _Finder(graph, tensors)
    for node in graph.node:
        if tensors[node.output[0]].constant:
            continue
        if node.op_type == "Erf":
            finder.gelu(node)
        elif node.op_type == "Sqrt":
            finder.norm(node)
    for node in graph.node:
        if node.op_type in _PRODUCTS and not tensors[node.output[0]].constant:
            finder.product(node)
    finder.dequantized()
    return finder.found


class _Finder:
    def __init__(self, graph: Any, tensors: Mapping[str, Any]) -> None:
        self.graph = graph
        self.tensors = tensors
        self.found = Fusion()
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        for value in graph.output:
            self.consumers.setdefault(value.name, []).append(None)

    def gelu(self, erf: Any) -> None:
        """x / sqrt(2) -> Erf -> + 1 -> * x -> * 0.5, with the last two in any order."""
        before = self._producer(erf.input[0], "Div", "Mul")
        plus = self._only(erf.output[0], "Add")
        times = None if plus is None else self._only(plus.output[0], "Mul")
        if before is None or plus is None or times is None:
            return
        source = self._variable(before)
        members = [before, plus, times]
        other = next((name for name in times.input if name != plus.output[0]), source)
        half = self.producers.get(other)
        if other != source:  # 0.5 x is computed first
            if half is None or half.op_type != "Mul" or self._variable(half) != source:
                return
            members.append(half)
            last = times
        else:
            after = self._only(times.output[0], "Mul")
            last = after if after is not None and self._variable(after) == times.output[0] else times
            members.append(last)
        self._fuse(erf, members, source, last)

    def norm(self, root: Any) -> None:
        """x - mean -> squared -> mean -> + eps -> Sqrt -> Div, with scale and shift where they follow."""
        plus = self._producer(root.input[0], "Add")
        square = self._producer(self._variable(plus), "ReduceMean") if plus is not None else None
        power = self._producer(square.input[0], "Mul", "Pow") if square is not None else None
        centred = self._producer(power.input[0], "Sub") if power is not None else None
        mean = self._producer(centred.input[1], "ReduceMean") if centred is not None else None
        divide = self._only(root.output[0], "Div")
        if centred is None or mean is None or divide is None or mean.input[0] != centred.input[0]:
            return
        members, last = [plus, square, power, centred, mean, divide], divide
        for operator in ("Mul", "Add"):
            following = self._only(last.output[0], operator)
            if following is None or self._variable(following) != last.output[0]:
                break
            members.append(following)
            last = following
        self._fuse(root, members, centred.input[0], last)
        self.found.norms.add(root.output[0])

    def product(self, node: Any) -> None:
        """A product with the bias, the activation and the quantization that follow it."""
        if all(self._from_int8(name) for name in node.input[:2]):
            self.found.integer.add(node.output[0])
        last = node
        while True:
            following = self._only(last.output[0], "Add", "QuantizeLinear", *_CHEAP)
            if following is None or following.output[0] in self.found.members:
                break
            if following.op_type == "Add" and not self._is_bias(following, last.output[0]):
                break
            if following.op_type == "QuantizeLinear" and node.output[0] not in self.found.integer:
                break
            self.found.members.add(following.output[0])
            last = following
            if last.op_type == "QuantizeLinear":
                break
        self.found.writes[node.output[0]] = last.output[0]

    def dequantized(self) -> None:
        """Mark what int8 products read: they take the integers as they are."""
        for node in self.graph.node:
            if node.op_type == "DequantizeLinear" and not self.tensors[node.output[0]].constant:
                users = self._users(node.output[0])
                if users and all(user.output[0] in self.found.integer for user in users):
                    self.found.free.add(node.output[0])

    def _users(self, name: str) -> list[Any]:
        """Consumers of a tensor, seen through views."""
        users = []
        for node in self.consumers.get(name, []):
            users += self._users(node.output[0]) if node is not None and node.op_type in _VIEWS else [node]
        return users

    def _from_int8(self, name: str) -> bool:
        node = self.producers.get(name)
        while node is not None and node.op_type in (*_VIEWS, "Transpose"):
            node = self.producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def _is_bias(self, add: Any, value: str) -> bool:
        other = next((name for name in add.input if name != value), value)
        tensor = self.tensors[other]
        return bool(tensor.constant and tensor.elements <= max(1, *self.tensors[value].shape))

    def _variable(self, node: Any) -> str:
        """The input of a node with two inputs that is not constant; empty where both are not."""
        names = [name for name in node.input if not self.tensors[name].constant]
        return names[0] if len(names) == 1 else ""

    def _producer(self, name: str, *operators: str) -> Any:
        node = self.producers.get(name)
        return node if node is not None and node.op_type in operators else None

    def _only(self, name: str, *operators: str) -> Any:
        users = self.consumers.get(name, [])
        return users[0] if len(users) == 1 and users[0] is not None and users[0].op_type in operators else None

    def _fuse(self, root: Any, members: list[Any], source: str, last: Any) -> None:
        self.found.members.update(node.output[0] for node in members)
        self.found.members.discard(root.output[0])
        self.found.reads[root.output[0]] = [source]
        self.found.writes[root.output[0]] = last.output[0]
