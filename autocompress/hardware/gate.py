"""The static gate: what can be refused without running anything. Each check gives its reason as text, or None."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.hardware.engines import tensorrt
from autocompress.hardware.targets import Engine, Target

if TYPE_CHECKING:
    from autocompress.bundles.exported_program import ExportedProgram

_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an element by `onnx.TensorProto.DataType`."""

PROCESS_BYTES = 60 * 2**20
"""Resident memory of an engine's process before it has a model: interpreter, NumPy and the engine's libraries."""


def parse(content: bytes) -> Any:
    """An `onnx.ModelProto` from the bytes of a file, without other files that it may name; None where it is none."""
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf's DecodeError; protobuf is onnx's dependency and not ours
        return None
    # Nearly any bytes can be read as some protobuf: a model has nodes and says which operators it uses.
    return model if model.graph.node and model.opset_import else None


def refuse_config(config: CompressionConfig, engine: Engine) -> str | None:
    """Why an engine cannot make use of a configuration; None where it can."""
    if config.precision not in engine.precisions:
        return f"does not compute in {config.precision} here, only in {', '.join(engine.precisions)}"
    if config.prune_pattern != "none" and config.prune_pattern not in engine.prune_patterns:
        return f"gains nothing from {config.prune_pattern} pruning"
    return None


def engines_for(config: CompressionConfig, target: Target) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """The usable engines of a target that can run a configuration, and the others' reasons."""
    able, reasons = [], []
    for engine in target.engines:
        reason = refuse_config(config, engine)
        if reason is None:
            able.append(engine)
        else:
            reasons.append(f"{engine.name}: {reason}")
    return tuple(able), tuple(reasons)


def refuse_model(path: Path, engine: Engine, *, memory_bytes: int | None = None) -> str | None:
    """Why an engine cannot run an exported file; None where nothing speaks against trying.

    Args:
        path: ONNX file; for torch, an exported program.
        engine: that would run it.
        memory_bytes: memory for model and engine; None for no limit.
    """
    from autocompress.bundles.exported_program import is_exported_program

    if engine.name == "torch":
        return _refuse_program(path, memory_bytes)
    if is_exported_program(path):
        return f"{path.name} is an exported program, which torch alone runs"
    try:
        model = parse(path.read_bytes())
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if model is None:
        return f"{path.name} is not an ONNX file"
    return (
        _refuse_files(model)
        or _refuse_opset(model, engine)
        or _refuse_operators(model)
        or _refuse_by_tensorrt(model, engine)
        or (None if memory_bytes is None else refuse_memory(model, memory_bytes))
    )


def _refuse_program(path: Path, memory_bytes: int | None) -> str | None:
    from autocompress.bundles.exported_program import is_exported_program, read_exported_program

    try:
        if not is_exported_program(path) and parse(path.read_bytes()) is not None:
            return f"{path.name} is an ONNX file; torch runs exported programs alone"
        program = read_exported_program(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    except UserError as error:
        return str(error)
    return None if memory_bytes is None else _refuse_bytes(program_memory(program), memory_bytes)


def program_memory(program: ExportedProgram) -> int:
    """Least memory in bytes for an exported program, in float32; an estimate from below, made to refuse safely.

    The process, the weights once, and the largest of all values: which of them share memory is not written down.
    """
    nodes = [node for node in program.graph["nodes"] if not node["op"].startswith("aten.expand")]
    made = [node["shape"] for node in nodes if node["shape"]]
    weights = sum(each.bytes for each in program.tensors.values())
    return PROCESS_BYTES + weights + 4 * max(map(_elements, [program.input_shape, *made]))


def _refuse_files(model: Any) -> str | None:
    external = next((each.name for each in model.graph.initializer if each.external_data), None)
    return None if external is None else f"the model keeps its tensor {external!r} in another file; it must be one file"


def _refuse_opset(model: Any, engine: Engine) -> str | None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > engine.opset:
            return f"reads ONNX opset {engine.opset} at most, the model has {entry.version}"
    return None


def _refuse_operators(model: Any) -> str | None:
    """The first operator that no engine can know, because ONNX itself does not."""
    import onnx

    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset > onnx.defs.onnx_opset_version():
        return None  # newer than the installed onnx: the engine will tell
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        # Operators of other domains, such as com.microsoft, are known to some engines and not to onnx.
        if node.domain not in ("", "ai.onnx") or (node.domain, node.op_type) in functions:
            continue
        try:
            onnx.defs.get_schema(node.op_type, opset, "")
        except onnx.defs.SchemaError:
            return f"the model has the operator {node.op_type}, which ONNX opset {opset} does not know"
    return None


def _refuse_by_tensorrt(model: Any, engine: Engine) -> str | None:
    if engine.name != "tensorrt":
        return None
    return tensorrt.refuse(model, tensorrt.version_of(engine.version, engine.opset))


def refuse_memory(model: Any, memory_bytes: int) -> str | None:
    """Why a model (an `onnx.ModelProto`) does not fit into memory, by `estimate_memory`; None where it may."""
    return _refuse_bytes(estimate_memory(model), memory_bytes)


def _refuse_bytes(needed: int, memory_bytes: int) -> str | None:
    if needed <= memory_bytes:
        return None
    return f"needs about {needed / 2**20:.0f} MiB of memory, the target has {memory_bytes / 2**20:.0f} MiB for it"


def estimate_memory(model: Any) -> int:
    """Least memory in bytes that an engine's process needs for a model; an estimate from below, made to refuse safely.

    The process, the weights once, and at each node the activations that are alive: made already and still wanted.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        inferred = model  # contradicting shapes: the weights alone are counted, and the engine will tell the rest
    sizes = {
        value.name: _bytes(value.type.tensor_type)
        for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    }
    weights = {each.name for each in model.graph.initializer}
    total = sum(_elements(each.dims) * _ELEMENT_BYTES.get(each.data_type, 4) for each in model.graph.initializer)
    last = {name: index for index, node in enumerate(inferred.graph.node) for name in node.input}
    end = len(inferred.graph.node)
    last |= {value.name: end for value in inferred.graph.output}
    alive = sum(sizes.get(value.name, 0) for value in inferred.graph.input if value.name not in weights)
    peak = alive
    for index, node in enumerate(inferred.graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in set(node.input) if last.get(name) == index and name not in weights)
        alive -= sum(sizes.get(name, 0) for name in node.output if name not in last)
    return PROCESS_BYTES + total + peak


def _bytes(tensor: Any) -> int:
    if any(not axis.HasField("dim_value") for axis in tensor.shape.dim):
        return 0
    return _elements(axis.dim_value for axis in tensor.shape.dim) * _ELEMENT_BYTES.get(tensor.elem_type, 4)


def _elements(axes: Any) -> int:
    count = 1
    for axis in axes:
        count *= int(axis)
    return count


def declared_input(model: Any) -> tuple[int | None, ...]:
    """Shape of the first input of an `onnx.ModelProto`; None for an axis of no fixed size."""
    weights = {each.name for each in model.graph.initializer}
    first = next((value for value in model.graph.input if value.name not in weights), None)
    if first is None:
        return ()
    return tuple(int(axis.dim_value) if axis.dim_value else None for axis in first.type.tensor_type.shape.dim)


def stored_precision(model: Any) -> str:
    """Number format of an `onnx.ModelProto`'s weights: ``int8`` where it quantizes, ``fp16``, else ``fp32``."""
    import onnx

    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv") for node in model.graph.node):
        return "int8"
    types = [each.data_type for each in model.graph.initializer if len(each.dims) >= 2]
    return "fp16" if types and all(each == onnx.TensorProto.FLOAT16 for each in types) else "fp32"
