"""Ranges of a network's inner values on calibration data, found by ONNX Runtime in a process of its own.

No engine runs in the process of a trial: one that crashes, or that takes all memory, is an answer there and not an end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from autocompress.compression.onnx_graph import load_graph
from autocompress.data.dataset import FloatArray
from autocompress.errors import ConfigError

TIMEOUT_S = 900.0
_WORKER = Path(__file__).with_name("range_worker.py")


def find_ranges(
    source: Path, tensors: Sequence[str], samples: FloatArray, *, threads: int | None = None
) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each tensor, averaged over the samples.

    The mean of the samples' extremes is less at the mercy of one outlier than the extreme of all, and costs no
    histogram; NNCF does the same.

    Args:
        source: the float32 model.
        tensors: names of float32 tensors inside it.
        samples: N x channels x R x R, as the network takes them.
        threads: of ONNX Runtime; None for all cores.

    Raises:
        ConfigError: ONNX Runtime could not run the model on the samples.
    """
    with tempfile.TemporaryDirectory(prefix="autocompress-ranges-") as folder:
        model = load_graph(source)
        wanted = [name for name in tensors if name not in {v.name for v in (*model.graph.input, *model.graph.output)}]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        onnx.save(model, str(Path(folder) / "model.onnx"))
        np.save(Path(folder) / "samples.npy", samples, allow_pickle=False)
        command = [sys.executable, str(_WORKER), folder, str(threads or 0), *tensors]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"{source}: calibration took longer than {TIMEOUT_S:.0f} s; give fewer samples"
            ) from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ConfigError(f"{source}: ONNX Runtime cannot run the model on the calibration samples: {reason}")
        answer = json.loads(done.stdout.splitlines()[-1])
    return {name: (float(low), float(high)) for name, (low, high) in answer.items()}
