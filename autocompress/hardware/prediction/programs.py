"""What an exported program costs, operator by operator: PyTorch executes them one by one as they stand there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autocompress.hardware.prediction.features import GraphCosts, NodeCost

if TYPE_CHECKING:
    from autocompress.bundles.exported_program import ExportedProgram

_VIEWS = frozenset(
    {"view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "flatten", "unflatten", "alias"}
    | {"chunk", "split", "split_with_sizes", "unbind", "select", "slice", "detach", "dropout", "getitem", "narrow"}
    | {"_unsafe_view", "movedim", "view_as", "expand_as"}
)
"""Operators that move no data."""
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
_TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "addmm", "baddbmm"})
_KINDS = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "gelu": "gelu",
    "to": "quantize",
    "repeat": "layout",
    "cat": "layout",
    "clone": "layout",
    "contiguous": "layout",
    "pad": "layout",
    "pixel_shuffle": "layout",
    "stack": "layout",
    "upsample_nearest2d": "resize",
    "upsample_bilinear2d": "resize",
    "linalg_vector_norm": "elementwise",
    "norm": "elementwise",
}
_OTHER_BYTES = {"float64": 8, "int64": 8, "int32": 4, "bool": 1}
"""Bytes of an element of other types than floating ones, which the precision decides."""


def program_costs(program: ExportedProgram, precision: str) -> GraphCosts:
    """The costs of a program in float32, or in 16 bits, in which every floating value takes two bytes.

    Args:
        program: see `autocompress.bundles.exported_program`.
        precision: fp32, fp16 or bf16.
    """
    return _Count(program, precision).run()


@dataclass
class _Count:
    """One pass over a program."""

    program: ExportedProgram
    precision: str
    element: int = 4
    """Bytes of a floating value."""
    constant: set[str] = field(default_factory=set)
    """Names of values that are the same for every image."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, str | None] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    """Names of values that are another one in memory."""
    costs: list[NodeCost] = field(default_factory=list)
    steps: list[tuple[set[str], str]] = field(default_factory=list)
    """Of each counted operator the activations that it reads, and the one that it writes."""

    def run(self) -> GraphCosts:
        graph, tensors = self.program.graph, self.program.tensors
        self.element = 4 if self.precision == "fp32" else 2
        self.constant = set(graph["tensors"])
        self.shapes = {name: tensors[key].shape for name, key in graph["tensors"].items()}
        self.shapes[graph["input"]["name"]] = self.program.input_shape
        self.types[graph["input"]["name"]] = "float32"
        for node in graph["nodes"]:
            self._node(node)
        weights = sum(math.prod(tensors[key].shape) * self.element for key in set(graph["tensors"].values()))
        return GraphCosts(self.precision, tuple(self.costs), weights, self._peak())

    def _node(self, node: Mapping[str, Any]) -> None:
        name, operator = node["name"], _short(node["op"])
        reads = list(_values([node["args"], list(node["kwargs"].values())]))
        self.shapes[name], self.types[name] = tuple(node["shape"] or ()), node["dtype"]
        source = next((each for each in reads if each not in self.constant), None)
        if source is None:
            self.constant.add(name)
            return
        if operator in _VIEWS or (operator == "to" and self.types.get(source) == node["dtype"]):
            self.same[name] = self._place(source)
            return
        activations = {self._place(each) for each in reads if each not in self.constant}
        traffic = sum(map(self._bytes, activations)) + self._bytes(name)
        kind, macs, narrowest = self._kind(operator, node, reads)
        weight = next((each for each in reads if each in self.constant), "") if macs else ""
        stored = math.prod(self.shapes[weight]) * self.element if weight else 0
        self.costs.append(NodeCost(kind, self.precision, macs, traffic, stored, 0.0, narrowest))
        self.steps.append((activations, name))

    def _bytes(self, name: str) -> int:
        return math.prod(self.shapes[name]) * _OTHER_BYTES.get(self.types[name] or "", self.element)

    def _kind(self, operator: str, node: Mapping[str, Any], reads: list[str]) -> tuple[str, int, int]:
        """Kind, multiply-accumulates and narrowest side."""
        made = self.shapes[node["name"]]
        out = math.prod(made)
        first, second = self.shapes[reads[0]], self.shapes[reads[1]] if len(reads) > 1 else ()
        if operator == "linear":
            return "matmul_weights", out * second[1], min(out // made[-1], second[1], made[-1])
        if operator in _CONVOLUTIONS or operator in _TRANSPOSED:
            channels = first[1]
            groups = channels // second[1] if operator in _CONVOLUTIONS else made[1] // second[1]
            macs = (out if operator in _CONVOLUTIONS else math.prod(first)) * math.prod(second[1:])
            if groups > 1 and groups == channels:
                return "conv_depthwise", macs, groups
            kind = "conv_pointwise" if math.prod(second[2:]) == 1 and groups == 1 else "conv_dense"
            return kind, macs, min(math.prod(second[1:]), second[0] // groups, math.prod(made[2:]))
        if operator in _PRODUCTS:
            left, right = reads[-2:]
            inner = self.shapes[left][-1]
            by_weights = left in self.constant or right in self.constant
            rows = out // made[-1] if by_weights else made[-2] if len(made) > 1 else 1
            return "matmul_weights" if by_weights else "matmul_activations", out * inner, min(rows, inner, made[-1])
        if operator.endswith("_norm") and operator not in _KINDS:
            return "norm", 0, 0
        return _KINDS.get(operator, "elementwise"), 0, 0

    def _place(self, name: str) -> str:
        return self.same.get(name, name)

    def _peak(self) -> int:
        last = {name: index for index, (reads, _) in enumerate(self.steps) for name in reads}
        last[self._place(self.program.graph["output"]["name"])] = len(self.steps)
        alive = peak = self._bytes(self.program.graph["input"]["name"])
        for index, (reads, written) in enumerate(self.steps):
            alive += self._bytes(written)
            peak = max(peak, alive)
            alive -= sum(self._bytes(name) for name in reads if last.get(name) == index)
            alive -= 0 if written in last else self._bytes(written)
        return peak


def _short(operator: str) -> str:
    """``aten.conv2d.default`` is ``conv2d``; in place or not is the same work."""
    name = operator.split(".")[1] if operator.count(".") == 2 else operator
    return name.removesuffix("_") if not name.startswith("__") else name


def _values(argument: Any) -> Iterator[str]:
    """Names of the values in an argument."""
    if isinstance(argument, list):
        for each in argument:
            yield from _values(each)
    elif isinstance(argument, dict) and "value" in argument:
        yield argument["value"]
