"""Latencies that were measured before: they depend on the graph and the host, not on the weights' values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import UserError
from autocompress.hardware.agent.protocol import PROTOCOL
from autocompress.hardware.gate import parse
from autocompress.hardware.records import Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Engine, Target
from autocompress.paths import cache_dir, make_dir, read_json, write_json

if TYPE_CHECKING:
    from autocompress.bundles.exported_program import ExportedProgram

_SETTINGS_THAT_MATTER = ("min_runs", "min_seconds", "max_seconds", "interval", "warmup_seconds", "agreement")


class LatencyCache:
    """A folder with one small JSON file for each measurement; processes may share it.

    Entries need no expiry: the key holds everything that a latency depends on, the engine's version and the host's
    power state included.

    Args:
        folder: made where it is missing; None for the user's cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = make_dir(folder or cache_dir() / "latency")

    def get(self, key: str) -> Measurement | None:
        """The measurement with that key; None where there is none, or its file is damaged."""
        path = self._path(key)
        try:
            measurement = Measurement.from_dict(read_json(path))
        except (UserError, TypeError, KeyError, ValueError, AttributeError):
            return None
        return replace(measurement, conditions={**measurement.conditions, "from_cache": True})

    def put(self, key: str, measurement: Measurement) -> None:
        """Keep a measurement, unless another try might end differently (disturbed, out of time or memory, lost)."""
        repeatable = measurement.outcome in ("ok", "unsupported") or _crashed_by_itself(measurement)
        if repeatable and not measurement.disturbed:
            path = self._path(key)
            path.parent.mkdir(exist_ok=True)
            write_json(path, measurement.to_dict())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _crashed_by_itself(measurement: Measurement) -> bool:
    """A fault in the engine's own code, which it will make again; not a signal that somebody sent."""
    return measurement.outcome == "crashed" and any(
        name in measurement.message for name in ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGBUS", "Assertion")
    )


def measurement_key(
    model: Path, engine: Engine, target: Target, precision: str, shape: tuple[int, ...], settings: MeasureSettings
) -> str:
    """Hexadecimal digest of all that a latency depends on."""
    wanted = asdict(settings)
    plain: dict[str, Any] = {
        "protocol": PROTOCOL,
        # Only an engine that skips zeros cares where they are.
        "graph": graph_digest(model, sparsity="unstructured" in engine.prune_patterns),
        "engine": [engine.name, engine.version, engine.threads, engine.device, dict(engine.options)],
        "precision": precision,
        "shape": list(shape),
        "host": target.host.get("id"),
        "power": [target.host.get("power"), target.power_mode],
        "settings": [wanted[name] for name in _SETTINGS_THAT_MATTER],
    }
    if target.host.get("gpu"):
        plain["gpu"] = target.host["gpu"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def graph_digest(model: Path, *, sparsity: bool) -> str:
    """Digest of an ONNX file or an exported program that does not depend on the values of its weights.

    Args:
        model: the file; of one that is neither, the content is taken.
        sparsity: whether the places of the zeros in pruned weights count (those with at least a tenth of zeros).
    """
    import onnx

    from autocompress.bundles.exported_program import is_exported_program, read_exported_program

    if is_exported_program(model):
        return _program_digest(read_exported_program(model))
    content = model.read_bytes()
    proto = parse(content)
    if proto is None:
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    tensors = list(proto.graph.initializer)
    for node in proto.graph.node:
        node.doc_string = ""
        tensors += [attribute.t for attribute in node.attribute if attribute.type == onnx.AttributeProto.TENSOR]
    for tensor in tensors:
        # Shapes, axes and indices are whole numbers of 64 bits; they decide what the graph computes and stay.
        if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL):
            continue
        if sparsity:
            digest.update(_zeros(tensor))
        for name in ("raw_data", "float_data", "double_data", "int32_data", "uint64_data"):
            tensor.ClearField(name)
    proto.doc_string = proto.graph.doc_string = ""
    digest.update(proto.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _program_digest(program: ExportedProgram) -> str:
    """Of the graph, and of the tensors' shapes and types; torch skips no zeros."""
    tensors = sorted((name, each.dtype, each.shape) for name, each in program.tensors.items())
    return hashlib.sha256(json.dumps([program.graph, tensors], sort_keys=True).encode()).hexdigest()


def _zeros(tensor: Any) -> bytes:
    """The places of the zeros of a pruned weight as bits; nothing for any other tensor."""
    import numpy as np
    from onnx import numpy_helper

    if len(tensor.dims) < 2 or tensor.external_data:
        return b""
    zeros = numpy_helper.to_array(tensor) == 0
    return np.packbits(zeros).tobytes() if zeros.mean() >= 0.1 else b""
