"""Runs models on samples in a process of its own; started as a script by `ranges`, it imports nothing of the package.

``ranges FOLDER THREADS TENSOR...`` prints the mean range and the rank of tensors of FOLDER/model.onnx on samples.npy.
``errors FOLDER THREADS MODEL...`` prints how far the output of each model is from that of FOLDER/model.onnx.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def ranges(folder: Path, threads: int, tensors: Sequence[str]) -> dict[str, tuple[float, float, int]]:
    """Mean over the samples of each tensor's smallest and largest value, and its number of dimensions."""
    session, samples = _session(folder / "model.onnx", threads), _samples(folder)
    source = session.get_inputs()[0].name
    wanted = [name for name in tensors if name != source]
    lows = np.zeros((len(samples), len(tensors)))
    highs = np.zeros_like(lows)
    for row, sample in enumerate(samples):
        values = dict(zip(wanted, session.run(wanted, {source: sample}), strict=True)) if wanted else {}
        values[source] = sample
        lows[row] = [values[name].min() for name in tensors]
        highs[row] = [values[name].max() for name in tensors]
    ranks = [values[name].ndim for name in tensors]
    found = zip(lows.mean(axis=0).tolist(), highs.mean(axis=0).tolist(), ranks, strict=True)
    return dict(zip(tensors, found, strict=True))


def errors(folder: Path, threads: int, models: Sequence[str]) -> dict[str, float]:
    """Mean absolute difference of the outputs, relative to the mean magnitude of the reference's."""
    samples = _samples(folder)
    reference = _outputs(_session(folder / "model.onnx", threads), samples)
    scale = float(np.abs(reference).mean()) or 1.0
    found = {}
    for name in models:
        outputs = _outputs(_session(folder / name, threads), samples)
        found[name] = float(np.abs(outputs - reference).mean()) / scale
    return found


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _samples(folder: Path) -> list[Any]:
    return [sample[None] for sample in np.load(folder / "samples.npy", allow_pickle=False)]


def _outputs(session: Any, samples: Sequence[Any]) -> Any:
    source = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {source: sample})[0] for sample in samples])


if __name__ == "__main__":
    work = {"ranges": ranges, "errors": errors}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])))
