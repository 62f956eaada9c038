"""What the exported form of a network costs or gains on each engine, side by side in one run.

    python benchmarks/export_form.py [--rounds 12] [--threads 2]

Full-width DAE-Former with random weights: latency depends on shapes and zeros, not on what was learned. Each engine
lives in a process of its own, since one of them may crash; the processes of a table take turns, so that a busy machine
slows all of them alike. Speed is against the first line of the same engine, by the median over the rounds of
(reference / candidate), and by the least times, which other load on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FAMILY, CLASSES = "dae-former", 9
# Engines other than DeepSparse read the fused LayerNormalization of 17; DeepSparse embeds a runtime that stops at 16.
OPSETS = {"onnxruntime": 17, "openvino": 17, "deepsparse": 13}


@dataclass(frozen=True)
class Entry:
    """One line of a table."""

    engine: str
    form: str
    sparsity: int = 0


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
        tuple(Entry(e, f) for e in ("onnxruntime", "openvino") for f in ("plain", "tokens", "channels_first")),
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
    path = folder / f"{table.levels}_{table.resolution}_{entry.engine}_{entry.form}_{entry.sparsity}.onnx"
    export_onnx(
        model,
        path,
        in_channels=1,
        resolution=table.resolution,
        opset=OPSETS[entry.engine],
        form=entry.form,  # type: ignore[arg-type]
    )
    return path


def load(engine: str, path: str, threads: int) -> Callable[[Any], Any]:
    """A function that runs the model on one image."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"input": image})[0]
    if engine == "openvino":
        import openvino

        config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(path, "CPU", config)
        return lambda image: compiled(image)[0]
    from deepsparse import compile_model

    compiled = compile_model(path, batch_size=1, num_cores=threads)
    return lambda image: compiled.run([image])[0]


def serve(engine: str, path: str, threads: int, resolution: int) -> None:
    """Worker process: one timed run for each line on the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print to the standard output
    run = load(engine, path, threads)
    image = np.random.default_rng(0).random((1, 1, resolution, resolution), dtype=np.float32)
    for _ in range(3):
        run(image)
    print(json.dumps(np.asarray(run(image)).ravel()[::97].tolist()), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(image)
        print(json.dumps(1e3 * (time.perf_counter() - start)), file=answers, flush=True)


class Worker:
    """A worker process of this script; ``failure`` says why it no longer answers."""

    def __init__(self, entry: Entry, table: Table, path: Path, threads: int, folder: Path) -> None:
        self.entry, self.failure = entry, ""
        self.times: list[float] = []
        arguments = ["--serve", entry.engine, str(path), str(threads), str(table.resolution)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,  # engines leave files behind
        )
        self.sample = self._read()

    def step(self) -> None:
        """One timed run."""
        if self.failure:
            return
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        answer = self._read()
        if answer is not None:
            self.times.append(answer)

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait(60)

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait(60)
        self.failure = f"crashes (signal {-code})" if code < 0 else f"fails (exit code {code})"
        return None


def report(table: Table, rounds: int, threads: int, folder: Path) -> None:
    """Time and print one table."""
    print(f"\n{table.levels} levels, {table.resolution} x {table.resolution}\n")
    print("| engine | form | zeros | p50 ms | least ms | speed | speed by least | difference of logits |")
    print("|---|---|---|---|---|---|---|---|")
    workers: list[Worker] = []
    for entry in table.entries:
        try:
            importlib.metadata.version(entry.engine)
        except importlib.metadata.PackageNotFoundError:
            print(f"| {entry.engine} | {entry.form} | {entry.sparsity} % | not installed | | | | |")
            continue
        workers.append(Worker(entry, table, export(entry, table, folder), threads, folder))
    for _ in range(rounds):
        for worker in workers:
            worker.step()
    for worker in workers:
        worker.close()
        entry = worker.entry
        head = f"| {entry.engine} | {entry.form} | {entry.sparsity} % |"
        if worker.failure:
            print(f"{head} {worker.failure} | | | | |")
            continue
        first = next(w for w in workers if w.entry.engine == entry.engine and not w.failure)
        ratio = statistics.median(a / b for a, b in zip(first.times, worker.times, strict=True))
        least = min(first.times) / min(worker.times)
        same = next((w for w in workers if w.entry.sparsity == entry.sparsity and not w.failure), worker)
        difference = np.abs(np.subtract(worker.sample, same.sample)).max() / np.abs(same.sample).max()
        times = f"{statistics.median(worker.times):.1f} | {min(worker.times):.1f}"
        print(f"{head} {times} | {ratio:.2f} | {least:.2f} | {difference:.1e} |")


def main() -> None:
    """Print the machine, the versions and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="timed runs of each line (default 12)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each engine (default all)")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        engine, path, threads, resolution = options.serve
        serve(engine, path, int(threads), int(resolution))
        return
    print(f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {options.threads} threads")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    for package in ("torch", "onnx", *OPSETS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            print(f"{package} {importlib.metadata.version(package)}", end="  ")
    print()
    with tempfile.TemporaryDirectory() as folder:
        for table in TABLES:
            report(table, options.rounds, options.threads, Path(folder))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
