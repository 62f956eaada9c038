"""Time and file size of one network in each number format and form, side by side in one run.

    python benchmarks/precision.py [--rounds 40] [--threads 2] [--resolution 224] [--width 1.0]

A two-level DAE-Former with random weights: latency depends on shapes, not on what was learned. See `_turns.py` for how
the times are taken; speed is against float32 on the same engine, in the form that is fastest for it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _turns import Worker, installed, machine, take_turns

CLASSES, OPSET = 9, 17


@dataclass(frozen=True)
class Entry:
    """One line: the stored number format, and the one that the rest is computed in."""

    engine: str
    precision: str
    form: str
    rest: str = "fp32"


ENTRIES = (
    Entry("onnxruntime", "fp32", "tokens"),
    Entry("onnxruntime", "fp32", "plain"),
    Entry("onnxruntime", "fp16", "plain"),
    Entry("onnxruntime", "int8", "plain"),
    Entry("onnxruntime", "int8", "tokens"),
    Entry("onnxruntime", "int8", "channels_first"),
    Entry("openvino", "fp32", "channels_first"),
    Entry("openvino", "fp32", "plain"),
    Entry("openvino", "bf16", "channels_first", "bf16"),
    Entry("openvino", "int8", "plain"),
    Entry("openvino", "int8", "channels_first"),
    Entry("openvino", "int8", "plain", "bf16"),
    Entry("openvino", "int8", "channels_first", "bf16"),
)


def export(entry: Entry, resolution: int, width: float, folder: Path) -> Path:
    """Write the model of one line."""
    import torch

    from autocompress.bundles.export import export_onnx
    from autocompress.compression.precision import convert
    from autocompress.config import CompressionConfig
    from autocompress.models import build

    plain = folder / f"{entry.form}.onnx"
    if not plain.exists():
        torch.manual_seed(0)
        model = build("dae-former", CompressionConfig(resolution, 2, width), in_channels=1, num_classes=CLASSES)
        export_onnx(model, plain, in_channels=1, resolution=resolution, opset=OPSET, form=entry.form)  # type: ignore[arg-type]
    if entry.precision in ("fp32", "bf16"):
        return plain
    path = folder / f"{entry.form}-{entry.precision}.onnx"
    if not path.exists():
        samples = np.random.default_rng(0).random((4, 1, resolution, resolution), dtype=np.float32)
        convert(plain, path, entry.precision, calibration=samples)  # type: ignore[arg-type]
    return path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="timed runs of each line (default 40)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each engine (default all)")
    parser.add_argument("--resolution", type=int, default=224, help="side of the input (default 224)")
    parser.add_argument("--width", type=float, default=1.0, help="of the network (default 1.0)")
    options = parser.parse_args()
    print(machine(options.threads))
    print(f"\nDAE-Former, 2 levels, width {options.width:g}, {options.resolution} x {options.resolution}\n")
    print("| engine | precision | rest in | form | p50 ms | least ms | speed | speed by least | file |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        entries = [entry for entry in ENTRIES if installed(entry.engine)]
        paths = [export(entry, options.resolution, options.width, Path(name)) for entry in entries]
        workers = [
            Worker(entry.engine, path, entry.rest, options.threads, options.resolution)
            for entry, path in zip(entries, paths, strict=True)
        ]
        take_turns(workers, options.rounds)
        for entry, path, worker in zip(entries, paths, workers, strict=True):
            head = f"| {entry.engine} | {entry.precision} | {entry.rest} | {entry.form} |"
            if worker.failure:
                print(f"{head} {worker.failure} | | | | |")
                continue
            first = next(w for w in workers if w.engine == entry.engine and not w.failure)
            size = path.stat().st_size / paths[0].stat().st_size
            print(f"{head} {worker.milliseconds} | {worker.speed(first)} | {size:.2f} |")


if __name__ == "__main__":
    main()
