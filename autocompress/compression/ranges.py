"""What a network does on calibration data, found by ONNX Runtime in a process of its own.

No engine runs in the process of a trial: one that crashes, or that takes all memory, is an answer there and not an end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from autocompress.compression.onnx_graph import load_graph
from autocompress.data.dataset import FloatArray
from autocompress.errors import ConfigError


@dataclass(frozen=True)
class Observed:
    """What a tensor held.

    Attributes:
        low, high: its smallest and its largest value, each averaged over the samples.
        rank: its number of dimensions.
    """

    low: float
    high: float
    rank: int


TIMEOUT_S = 900.0
_WORKER = Path(__file__).with_name("range_worker.py")


def find_ranges(
    source: Path, tensors: Sequence[str], samples: FloatArray, *, threads: int | None = None
) -> dict[str, Observed]:
    """The range of each tensor.

    The mean of the samples' extremes is less at the mercy of one outlier than the extreme of all, and costs no
    histogram; NNCF does the same.

    Args:
        source: the float32 model.
        tensors: names of float32 tensors inside it.
        samples: N x channels x R x R, as the network takes them one by one.
        threads: of ONNX Runtime; None for all cores.

    Raises:
        ConfigError: ONNX Runtime could not run the model on the samples.
    """
    with tempfile.TemporaryDirectory(prefix="autocompress-ranges-") as name:
        folder = Path(name)
        model = load_graph(source)
        known = {value.name for value in (*model.graph.input, *model.graph.output)}
        model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors if tensor not in known)
        onnx.save(model, str(folder / "model.onnx"))
        np.save(folder / "samples.npy", samples, allow_pickle=False)
        answer = _run("ranges", folder, tensors, source=source, threads=threads)
    return {tensor: Observed(float(low), float(high), int(rank)) for tensor, (low, high, rank) in answer.items()}


def find_errors(folder: Path, models: Sequence[str], *, source: Path, threads: int | None = None) -> dict[str, float]:
    """Relative error of the output of each model in a folder against its ``model.onnx``, on its ``samples.npy``.

    Raises:
        ConfigError: ONNX Runtime could not run a model.
    """
    return {
        name: float(error) for name, error in _run("errors", folder, models, source=source, threads=threads).items()
    }


def _run(work: str, folder: Path, names: Sequence[str], *, source: Path, threads: int | None) -> dict[str, Any]:
    command = [sys.executable, str(_WORKER), work, str(folder), str(threads or 0), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{source}: calibration took longer than {TIMEOUT_S:.0f} s; give fewer samples") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ConfigError(f"{source}: ONNX Runtime cannot run the model on the calibration samples: {reason}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
