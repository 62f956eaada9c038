"""Mixed precision: which layers cost the most accuracy as integers, and are worth keeping in float32."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from autocompress.compression import quantization
from autocompress.compression.ranges import find_errors
from autocompress.data.dataset import FloatArray


def rank_by_sensitivity(plan: quantization.Plan, samples: FloatArray, *, threads: int | None = None) -> tuple[str, ...]:
    """The plan's nodes from the most sensitive to the least.

    Each is quantized alone and the output compared with that of the float32 model, so this takes one short run for
    each node; a few samples are enough.

    Args:
        plan: see `autocompress.compression.quantization.plan`.
        samples: N x channels x R x R, of training slices.
        threads: of ONNX Runtime; None for all cores.

    Raises:
        ConfigError: ONNX Runtime could not run a model.
    """
    with tempfile.TemporaryDirectory(prefix="autocompress-sensitivity-") as name:
        folder = Path(name)
        shutil.copyfile(plan.source, folder / "model.onnx")
        np.save(folder / "samples.npy", samples, allow_pickle=False)
        files = {f"only-{index}.onnx": node for index, node in enumerate(plan.nodes)}
        for file, node in files.items():
            quantization.write_int8(plan, folder / file, nodes=(node,))
        errors = find_errors(folder, list(files), source=plan.source, threads=threads)
    return tuple(files[file] for file in sorted(errors, key=lambda file: -errors[file]))
