"""Models timed in turns, each by an engine in a process of its own, so that a busy machine slows all of them alike.

One engine may crash without ending the table. In its turn a model runs a few times in a row, the first not timed: its
weights are back in the caches then, as in a service that runs one model. Ratios are medians over the rounds of
(reference / candidate), and ratios of the least times, which other load on the machine disturbs less.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("onnxruntime", "openvino", "deepsparse")
TIMED = 3
"""Timed runs of a turn, of which the median counts."""
OPENVINO_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}


def machine(threads: int) -> str:
    """Two lines about the machine and the versions."""
    versions = []
    for package in ("torch", "onnx", *ENGINES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()}, {_processor()}, {os.cpu_count()} cores, {threads} threads, load before {load:.1f}\n"
        + ", ".join(versions)
    )


def installed(engine: str) -> bool:
    """Whether an engine can be imported."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(engine))
    return False


class Worker:
    """A process that runs one model on request.

    Args:
        engine: name of the engine.
        path: ONNX file.
        compute: number format to compute in: ``fp32``, ``bf16`` or ``int8``.
        threads: of the engine.
        resolution: side of the input.

    Attributes:
        failure: why it no longer answers; empty while it does.
        times: milliseconds of its runs so far.
        sample: some of the model's output values.
    """

    def __init__(self, engine: str, path: Path, compute: str, threads: int, resolution: int) -> None:
        self.engine, self.failure = engine, ""
        self.times: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, __file__, engine, str(path), compute, str(threads), str(resolution)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=path.parent,  # engines leave files behind
        )
        self.sample = self._read()

    def step(self) -> None:
        """One turn."""
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

    def speed(self, reference: Worker) -> str:
        """Two columns: median and least-time ratio against another worker."""
        ratio = statistics.median(a / b for a, b in zip(reference.times, self.times, strict=True))
        return f"{ratio:.2f} | {min(reference.times) / min(self.times):.2f}"

    @property
    def milliseconds(self) -> str:
        """Two columns: median and least time."""
        return f"{statistics.median(self.times):.1f} | {min(self.times):.1f}"

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait(60)
        self.failure = f"crashes (signal {-code})" if code < 0 else f"fails (exit code {code})"
        return None


def take_turns(workers: Sequence[Worker], rounds: int) -> None:
    """Let each worker have its turn in every round, and end them."""
    for _ in range(rounds):
        for worker in workers:
            worker.step()
    for worker in workers:
        worker.close()


def load(engine: str, path: str, compute: str, threads: int) -> Callable[[Any], Any]:
    """A function that runs the model on one image."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {"input": image})[0]
    if engine == "openvino":
        import openvino

        config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": OPENVINO_HINTS[compute]}
        compiled = openvino.Core().compile_model(path, "CPU", config)
        return lambda image: compiled(image)[0]
    from deepsparse import compile_model

    compiled = compile_model(path, batch_size=1, num_cores=threads)
    return lambda image: compiled.run([image])[0]


def serve(engine: str, path: str, compute: str, threads: int, resolution: int) -> None:
    """Worker process: one turn for each line on the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print to the standard output
    run = load(engine, path, compute, threads)
    image = np.random.default_rng(0).random((1, 1, resolution, resolution), dtype=np.float32)
    for _ in range(3):
        run(image)
    print(json.dumps(np.asarray(run(image)).ravel()[::97].tolist()), file=answers, flush=True)
    for _ in sys.stdin:
        times = []
        for _ in range(1 + TIMED):
            start = time.perf_counter()
            run(image)
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(statistics.median(times[1:])), file=answers, flush=True)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
