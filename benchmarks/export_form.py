"""What the exported form of a network costs or gains on each engine, side by side in one run.

    python benchmarks/export_form.py [--rounds 12] [--threads 2]

Full-width DAE-Former with random weights: latency depends on shapes and zeros, not on what was learned. See `_turns.py`
for how the times are taken; speed is against the first line of the same engine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _turns import Worker, installed, machine, take_turns

FAMILY, CLASSES = "dae-former", 9
# Engines other than DeepSparse read the fused LayerNormalization of 17; DeepSparse embeds a runtime that stops at 16.
OPSETS = {"onnxruntime": 17, "openvino": 17, "deepsparse": 13}


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    engine: str
    form: str
    sparsity: int = 0
    opset: int = 0

    def __post_init__(self) -> None:
        if not self.opset:
            object.__setattr__(self, "opset", OPSETS[self.engine])


@dataclass(frozen=True)
class Table:
    """Lines that are timed in turns; ratios are against the first that runs on the same engine."""

    levels: int
    resolution: int
    entries: tuple[Entry, ...]


TABLES = (
    Table(
        2,
        224,
        (
            # Opset 13 has no LayerNormalization: what an exporter writes that aims at every engine.
            Entry("onnxruntime", "plain", opset=13),
            *(Entry("onnxruntime", form) for form in ("plain", "tokens", "channels_first")),
            Entry("openvino", "plain", opset=13),
            *(Entry("openvino", form) for form in ("plain", "tokens", "channels_first")),
        ),
    ),
    Table(
        2,
        128,
        (
            Entry("deepsparse", "channels_first"),
            Entry("deepsparse", "channels_first", 50),
            Entry("deepsparse", "channels_first", 80),
            Entry("deepsparse", "channels_first", 90),
            Entry("deepsparse", "plain"),
            Entry("deepsparse", "plain", 90),
        ),
    ),
    Table(3, 224, (Entry("deepsparse", "plain"), Entry("deepsparse", "channels_first"))),
)


def export(entry: Entry, table: Table, folder: Path) -> Path:
    """Write the model of one line."""
    import torch

    from autocompress.bundles.export import export_onnx
    from autocompress.config import CompressionConfig
    from autocompress.models import get_family

    torch.manual_seed(0)
    family = get_family(FAMILY)
    model = family.build(CompressionConfig(table.resolution, table.levels), 1, CLASSES)
    for name in family.prunable(model) if entry.sparsity else ():
        weight = model.get_parameter(name).data
        threshold = weight.abs().flatten().kthvalue(max(1, weight.numel() * entry.sparsity // 100)).values
        weight[weight.abs() <= threshold] = 0
    path = folder / f"{table.levels}_{table.resolution}_{entry.engine}_{entry.form}_{entry.opset}_{entry.sparsity}.onnx"
    export_onnx(
        model,
        path,
        in_channels=1,
        resolution=table.resolution,
        opset=entry.opset,
        form=entry.form,  # type: ignore[arg-type]
    )
    return path


def report(table: Table, rounds: int, threads: int, folder: Path) -> None:
    """Time and print one table."""
    print(f"\n{table.levels} levels, {table.resolution} x {table.resolution}\n")
    print("| engine | form, opset | zeros | p50 ms | least ms | speed | speed by least | difference of logits |")
    print("|---|---|---|---|---|---|---|---|")
    entries = [entry for entry in table.entries if installed(entry.engine)]
    workers = [
        Worker(entry.engine, export(entry, table, folder), "fp32", threads, table.resolution) for entry in entries
    ]
    take_turns(workers, rounds)
    for entry, worker in zip(entries, workers, strict=True):
        head = f"| {entry.engine} | {entry.form}, {entry.opset} | {entry.sparsity} % |"
        if worker.failure:
            print(f"{head} {worker.failure} | | | | |")
            continue
        ran = [(e, w) for e, w in zip(entries, workers, strict=True) if not w.failure]
        first = next(w for e, w in ran if e.engine == entry.engine)
        same = next(w for e, w in ran if e.sparsity == entry.sparsity)
        difference = np.abs(np.subtract(worker.sample, same.sample)).max() / np.abs(same.sample).max()
        print(f"{head} {worker.milliseconds} | {worker.speed(first)} | {difference:.1e} |")


def main() -> None:
    """Print the machine, the versions and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="timed runs of each line (default 12)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each engine (default all)")
    options = parser.parse_args()
    print(machine(options.threads))
    with tempfile.TemporaryDirectory() as folder:
        for table in TABLES:
            report(table, options.rounds, options.threads, Path(folder))


if __name__ == "__main__":
    main()
