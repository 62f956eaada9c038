"""Running an exported file on many inputs, for evaluation and verification: through the agent, as it will be served."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.data.dataset import FloatArray
from autocompress.hardware.engines import build_seconds
from autocompress.hardware.hosts import AgentJob, AgentReport, Host
from autocompress.hardware.records import Outcome
from autocompress.hardware.targets import Engine, Target
from autocompress.hardware.turnstile import Turnstile

CHUNK_BYTES = 64 * 2**20


class EngineError(Exception):
    """An engine did not give the outputs that were asked for.

    Attributes:
        outcome: how it failed, as in a `Measurement`.
        engine: its name.
    """

    def __init__(self, engine: str, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.engine = engine
        self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return (EngineError, (self.engine, self.outcome, str(self)))


def infer(
    model: Path,
    engine: Engine | str,
    target: Target,
    inputs: Iterable[FloatArray],
    *,
    precision: str = "fp32",
    turnstile: Turnstile | None = None,
    timeout_seconds: float = 600.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[FloatArray]:
    """Run a model on inputs, one sample at a time, and yield the outputs in the same order.

    Inputs are taken and outputs are given in chunks of about ``chunk_bytes``, one process of the engine for each, so
    that memory stays bounded however many volumes there are.

    Args:
        model: ONNX file; for torch, an exported program.
        engine: one of the target's engines, or its name.
        target: where it runs; for a target whose figures are predicted, another engine runs it here (`stand_in_for`).
        inputs: arrays of N x C x R x R float32, such as one volume each; N from 1.
        precision: number format to compute in; it matters where one file serves several (bf16 with openvino).
        turnstile: with one, the engine enters the room for each sample, so that a measurement by another worker is
            neither disturbed nor held up. Where this thread is inside one of its steps, that step covers the engine.
        timeout_seconds: for each process of the engine.
        chunk_bytes: size of the inputs of one process.

    Yields:
        N x K x R' x R' float32, the model's first output, one array for each input array.

    Raises:
        EngineError: the engine crashed, refused, or answered with NaN; it carries the outcome.
        TargetError: the target has no such engine.
    """
    chosen = target.engine(engine) if isinstance(engine, str) else engine
    if target.predicted:
        chosen = stand_in_for(chosen)
        if chosen.name == "torch" and precision == "fp16":
            precision = "fp32"  # torch has no fp16 on a processor, and the file holds float32
    host = target.open_host()
    for chunk in _chunks(inputs, chunk_bytes):
        yield from _infer(model, chosen, host, chunk, precision, turnstile, timeout_seconds)


def stand_in_for(engine: Engine) -> Engine:
    """What computes the outputs of an engine that is not at hand: one that reads its file, on this machine's processor.

    That is ONNX Runtime; for the exported programs of torch, torch.
    """
    threads = min(engine.threads, os.cpu_count() or 1)
    name = "torch" if engine.name == "torch" else "onnxruntime"
    return replace(engine, name=name, device="cpu", threads=threads, python=None, options={})


def model_name(engine: Engine) -> str:
    """Name of the model's file in the agent's folder; engines may go by its ending."""
    return "model.safetensors" if engine.name == "torch" else "model.onnx"


def _chunks(inputs: Iterable[FloatArray], limit: int) -> Iterator[list[FloatArray]]:
    chunk: list[FloatArray] = []
    size = 0
    for array in inputs:
        if chunk and size + array.nbytes > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(array)
        size += array.nbytes
    if chunk:
        yield chunk


def _infer(
    model: Path,
    engine: Engine,
    host: Host,
    arrays: Sequence[FloatArray],
    precision: str,
    turnstile: Turnstile | None,
    timeout_seconds: float,
) -> Iterator[FloatArray]:
    with tempfile.TemporaryDirectory(prefix="autocompress-infer-") as scratch:
        folder = Path(scratch)
        name_there = model_name(engine)
        inputs, outputs = {name_there: model}, {}
        for index, array in enumerate(arrays):
            name = f"input-{index}.npy"
            np.save(folder / name, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
            inputs[name] = folder / name
            outputs[f"output-{index}.npy"] = folder / f"output-{index}.npy"
        request = {
            **engine_request(engine, precision),
            "turnstile": turnstile_folder(turnstile),
            "run": {"inputs": [name for name in inputs if name != name_there], "outputs": list(outputs)},
        }
        job = AgentJob(request, inputs, outputs, engine.python, timeout_seconds, build_seconds(engine.name))
        report = host.run(job)
        raise_unless_ok(engine, report)
        for path in outputs.values():
            yield np.load(path, allow_pickle=False)
            path.unlink()


def engine_request(engine: Engine, precision: str) -> dict[str, Any]:
    """The part of a request that says which engine runs the model that is called `model_name` there, and how."""
    return {
        "engine": engine.name,
        "model": model_name(engine),
        "precision": precision,
        "device": engine.device,
        "threads": engine.threads,
        "options": dict(engine.options),
    }


def turnstile_folder(turnstile: Turnstile | None) -> str | None:
    """The turnstile for the agent to pass; none where this thread's own step covers it: it would wait for itself."""
    return None if turnstile is None or turnstile.held else str(turnstile.folder.resolve())


def raise_unless_ok(engine: Engine, report: AgentReport) -> None:
    """Raise `EngineError` for a report that is not ``ok``."""
    if report.outcome != "ok":
        raise EngineError(engine.name, report.outcome, report.message)
