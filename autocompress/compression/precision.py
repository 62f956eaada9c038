"""Precision (step D): from an exported float32 model to the file that is deployed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.compression import half, quantization
from autocompress.compression.onnx_graph import load_graph
from autocompress.compression.sensitivity import rank_by_sensitivity
from autocompress.config import PRECISIONS, Precision
from autocompress.data.dataset import FloatArray
from autocompress.errors import ConfigError
from autocompress.paths import write_bytes

CALIBRATION_SLICES = 16
"""Enough for ranges that are means of extremes."""
_SCANNED_SLICES = 2
SYMMETRIC_ENGINES = frozenset({"tensorrt"})
"""Engines whose activations must be int8 around zero."""


def convert(
    source: Path,
    target: Path,
    precision: Precision,
    *,
    calibration: FloatArray | None = None,
    engine: str = "onnxruntime",
    keep_float: int = 0,
    exclude: Collection[str] = (),
    threads: int | None = None,
) -> None:
    """Write the model in another precision; input and output stay float32.

    fp16 has float16 weights and arithmetic, with what is fragile in float32 (`half`). int8 has QuantizeLinear and
    DequantizeLinear around convolutions and matrix products (`quantization`). bf16 is the float32 file: the engine
    rounds when it loads it.

    Args:
        source: float32 ONNX.
        target: file to write, in one step; may be ``source``.
        precision: fp32, fp16, bf16 or int8.
        calibration: for int8: images N x channels x R x R of *training* slices, as the network takes them; about
            `CALIBRATION_SLICES` of them (see `calibration_slices`).
        engine: for int8: who will run the file; it decides how activations become integers.
        keep_float: for int8: so many of the most sensitive layers stay in float32 (mixed precision); finding them
            takes one short run a layer.
        exclude: for int8: further nodes that stay in float32, by the name of what they compute.
        threads: for the calibration; None for all cores.

    Raises:
        ConfigError: the precision is unknown, the model is unfit for it, or the calibration slices are missing or of
            another shape.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision in ("fp32", "bf16"):
        load_graph(source)
        write_bytes(target, Path(source).read_bytes())
    elif precision == "fp16":
        half.to_half(source, target)
    else:
        samples = _checked(source, calibration)
        plan = quantization.plan(source, samples, exclude=exclude, threads=threads)
        nodes = plan.nodes
        if keep_float > 0:
            ranked = rank_by_sensitivity(plan, samples[:_SCANNED_SLICES], threads=threads)
            nodes = tuple(name for name in plan.nodes if name not in set(ranked[:keep_float]))
        quantization.write_int8(plan, target, nodes=nodes, symmetric=engine in SYMMETRIC_ENGINES)


def calibration_slices(images: FloatArray, count: int = CALIBRATION_SLICES) -> FloatArray:
    """Slices for the calibration, evenly spread over the training slices N x channels x R x R.

    Raises:
        ConfigError: there are none.
    """
    if len(images) == 0:
        raise ConfigError("no training slices to calibrate INT8 with")
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    return np.ascontiguousarray(images[chosen], dtype=np.float32)


def _checked(source: Path, calibration: FloatArray | None) -> FloatArray:
    if calibration is None or len(calibration) == 0:
        raise ConfigError("INT8 needs calibration slices from the training split, and got none")
    graph = load_graph(source).graph
    inputs = [value for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
    shape = tuple(_size(size) for size in inputs[0].type.tensor_type.shape.dim)
    found = np.shape(calibration)
    if len(found) != len(shape) or any(a is not None and a != b for a, b in zip(shape[1:], found[1:], strict=True)):
        raise ConfigError(
            f"calibration slices of shape {found} do not fit {source}, which takes N x "
            f"{' x '.join('?' if size is None else str(size) for size in shape[1:])}"
        )
    samples = np.ascontiguousarray(calibration, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise ConfigError("the calibration slices hold values that are not finite")
    return samples


def _size(dimension: Any) -> int | None:
    return int(dimension.dim_value) if dimension.dim_value > 0 else None
