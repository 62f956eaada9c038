"""Runs a model on calibration samples and prints the ranges of its tensors; started as a script by `ranges`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime


def ranges(folder: Path, threads: int, tensors: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean over the samples of each tensor's smallest and largest value."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    samples = np.load(folder / "samples.npy", allow_pickle=False)
    source = session.get_inputs()[0].name
    wanted = [name for name in tensors if name != source]
    lows = np.zeros((len(samples), len(tensors)))
    highs = np.zeros_like(lows)
    for row, sample in enumerate(samples):
        values = dict(zip(wanted, session.run(wanted, {source: sample[None]}), strict=True)) if wanted else {}
        values[source] = sample
        lows[row] = [values[name].min() for name in tensors]
        highs[row] = [values[name].max() for name in tensors]
    means = zip(lows.mean(axis=0).tolist(), highs.mean(axis=0).tolist(), strict=True)
    return dict(zip(tensors, means, strict=True))


if __name__ == "__main__":
    print(json.dumps(ranges(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
