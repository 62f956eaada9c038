"""What each TensorRT reads of an ONNX file, so that a model is refused before it is sent to a device.

The tables follow ``docs/operators.md`` and ``docs/Changelog.md`` of onnx-tensorrt in the branches of these versions.
They name what is known to fail, and nothing else: a model that passes may still be refused by TensorRT itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

Version = tuple[int, int]

OPSETS: Mapping[Version, int] = MappingProxyType({(8, 0): 13, (8, 5): 17, (9, 0): 19, (10, 0): 20, (10, 15): 24})
"""Newest opset that is read, from that version on."""


def _operators(names: str) -> frozenset[str]:
    return frozenset(names.split())


_NEVER = _operators(
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "
    "ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool "
    "MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv "
    "QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringNormalizer TfIdfVectorizer Unique"
)
"""Operators that no version reads, up to 10.15."""
_ARRIVED: Mapping[Version, frozenset[str]] = MappingProxyType(
    {
        (8, 2): _operators("Einsum GatherND IsNaN Round ScatterElements Sign"),
        (8, 4): _operators("Shrink Xor"),
        (8, 5): _operators(
            "GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal RandomNormalLike RoiAlign "
            "Trilu"
        ),
        (8, 6): _operators("GroupNormalization IsInf LayerNormalization"),
        (9, 0): _operators("CastLike"),
        (9, 2): _operators("Hardmax"),
        (10, 0): _operators("Gelu Mish"),
        (10, 1): _operators("DeformConv"),
        (10, 4): _operators("BlackmanWindow HammingWindow HannWindow"),
        (10, 5): _operators("STFT"),
    }
)
"""Operators that are read from that version on; all others that ONNX has are read by 8.0 already."""


def version_of(text: str, opset: int) -> Version:
    """The TensorRT that a model is for.

    Args:
        text: version as the engine reports it, such as ``8.2.1``; empty where nobody asked it.
        opset: that the profile gives; where the version is unknown, it is the newest one that reads no newer opset.
    """
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is not None:
        return int(found.group(1)), int(found.group(2))
    known = sorted({*OPSETS, *_ARRIVED})
    able = [version for version in known if newest_opset(version) >= opset] or known[-1:]
    return max(version for version in able if newest_opset(version) == newest_opset(able[0]))


def newest_opset(version: Version) -> int:
    """The newest opset that a version reads."""
    return OPSETS[max((each for each in OPSETS if each <= version), default=min(OPSETS))]


def refuse(model: Any, version: Version) -> str | None:
    """Why a TensorRT cannot read a model; None where nothing is known to speak against it.

    Args:
        model: an `onnx.ModelProto` whose operators ONNX knows.
        version: such as ``(8, 2)``.
    """
    name = f"TensorRT {version[0]}.{version[1]}"
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest_opset(version):
            return f"{name} reads ONNX opset {newest_opset(version)} at most, the model has {entry.version}"
    if len(model.functions) > 0 and version < (9, 0):
        return f"{name} reads no functions of the model's own, as {model.functions[0].name}; export it without them"
    constants = _constants(model.graph)
    for node in _nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue  # a plugin may know it
        reason = _refuse_operator(node.op_type, version)
        for until, check in _LIMITS.get(node.op_type, ()):
            if reason is None and (until is None or version < until):
                reason = check(node, constants)
        if reason is not None:
            return f"{name} {reason}"
    return None


def _refuse_operator(operator: str, version: Version) -> str | None:
    if operator in _NEVER:
        return f"has no importer for the operator {operator}"
    since = next((each for each, operators in _ARRIVED.items() if operator in operators), None)
    if since is None or version >= since:
        return None
    return f"has no importer for the operator {operator}, which came with {since[0]}.{since[1]}"


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, with those inside of If, Loop and Scan."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _nodes(inner)


def _constants(graph: Any) -> Mapping[str, Any]:
    """What is known when an engine is built, by name: the stored tensors, and None for what is computed from them."""
    known: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = node.attribute[0].t
        elif all(name in known for name in node.input if name):
            known.update(dict.fromkeys(node.output))
    return known


# ---------------------------------------------------------------------------------------------------------------------
# Limits of single operators. Each gives the end of a sentence that begins with TensorRT's name, or None

_Check = Callable[[Any, Mapping[str, Any]], str | None]


def _attribute(node: Any, name: str, default: str) -> str:
    found = next((each.s.decode() for each in node.attribute if each.name == name), "")
    return found or default


def _einsum(node: Any, _: Mapping[str, Any]) -> str | None:
    equation = _attribute(node, "equation", "").replace(" ", "")
    if "..." in equation:
        return f"reads no ellipsis in Einsum, the model has {equation!r}"
    operands = equation.partition("->")[0].split(",")
    if any(len(set(operand)) < len(operand) for operand in operands):
        return f"reads no diagonal in Einsum, the model has {equation!r}"
    return None


def _parameters_stored(node: Any, constants: Mapping[str, Any]) -> str | None:
    return _stored(node, constants, node.input[1:3])


def _weights_stored(node: Any, constants: Mapping[str, Any]) -> str | None:
    return _stored(node, constants, node.input[1:2])


def _stored(node: Any, constants: Mapping[str, Any], names: Iterable[str]) -> str | None:
    computed = next((name for name in names if name not in constants), None)
    return None if computed is None else f"wants stored weights for {node.op_type}, but {computed!r} is computed"


def _resize(node: Any, _: Mapping[str, Any]) -> str | None:
    for name, default, allowed in (
        ("mode", "nearest", ("nearest", "linear")),
        (
            "coordinate_transformation_mode",
            "half_pixel",
            ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
        ),
        ("nearest_mode", "round_prefer_floor", ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
    ):
        found = _attribute(node, name, default)
        if found not in allowed:
            return f"reads Resize with the {name} {', '.join(allowed)} only, the model has {found}"
    return None


def _zero_point(node: Any, constants: Mapping[str, Any]) -> str | None:
    from onnx import numpy_helper

    point = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if point is not None and numpy_helper.to_array(point).any():
        return f"reads {node.op_type} with the zero point 0 only (symmetric quantization)"
    return None


def _one_output(node: Any, _: Mapping[str, Any]) -> str | None:
    return f"gives only the first output of {node.op_type}" if len([name for name in node.output if name]) > 1 else None


_LIMITS: Mapping[str, tuple[tuple[Version | None, _Check], ...]] = MappingProxyType(
    {
        "Einsum": (((8, 6), _einsum),),
        "InstanceNormalization": (((8, 6), _parameters_stored),),
        "Conv": (((8, 5), _weights_stored),),
        "ConvTranspose": (((8, 5), _weights_stored),),
        "Resize": ((None, _resize),),
        "QuantizeLinear": ((None, _zero_point),),
        "DequantizeLinear": ((None, _zero_point),),
        "MaxPool": ((None, _one_output),),
        "LayerNormalization": ((None, _one_output),),
    }
)
"""Checks of an operator, each with the version from which it is no longer needed; None for all."""
