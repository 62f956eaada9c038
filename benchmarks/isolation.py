"""Is a latency the same while others train? p50 idle, beside two training workers with the turnstile, and without it.

    python benchmarks/isolation.py [--threads 1 2] [--engines onnxruntime openvino deepsparse] [--json FILE]

The figures mean something only on a machine that does nothing else. With the turnstile, p50 is to stay within 3 % of
the idle one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from _engines import engines_with_files
from _turns import machine

from autocompress.errors import UserError
from autocompress.hardware.candidates import noise
from autocompress.hardware.measure import measure
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Target
from autocompress.hardware.turnstile import Turnstile

# Training steps of a small convolutional network without a pause, each of them passing the turnstile.
WORKER = """
import sys
from pathlib import Path
import torch
from autocompress.hardware.turnstile import Turnstile
torch.set_num_threads(int(sys.argv[2]))
room = Turnstile(Path(sys.argv[1]))
network = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(),
    torch.nn.Conv2d(32, 9, 1),
)
optimizer = torch.optim.AdamW(network.parameters())
images, labels = torch.rand(8, 1, 64, 64), torch.randint(0, 9, (8, 64, 64))
print("ready", flush=True)
while True:
    with room.step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
"""


@contextmanager
def workers(count: int, folder: Path, threads: int) -> Iterator[None]:
    """Training processes that pass the turnstile in ``folder``."""
    command = [sys.executable, "-c", WORKER, str(folder), str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(count)]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        time.sleep(0.5)
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def p50(files: dict[str, Path], target: Target, side: int, room: Turnstile, settings: MeasureSettings) -> float:
    """Median latency in milliseconds of the target's only engine; infinite where the runs did not end in time."""
    found = measure(files, target, inputs=noise(4, 1, side, side), settings=settings, turnstile=room)
    best = found.measurements[0]
    if best.outcome == "timeout":
        return float("inf")  # two threads of DeepSparse beside two training workers can be a thousand times too slow
    if best.latency is None:
        raise UserError(found.reasons)
    return best.latency.p50


def compare(target: Target, files: dict[str, Path], side: int, repeats: int) -> dict[str, Any]:
    """Idle, isolated and naive p50 of one engine: the median of several measurements, taken in turn."""
    settings = MeasureSettings()
    naive = replace(settings, foreign_limit=1e9, agreement=None)
    figures: dict[str, list[float]] = {"idle": [], "turnstile": [], "naive": []}
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Turnstile(Path(scratch) / "ours"), Turnstile(Path(scratch) / "theirs")
        for _ in range(repeats):
            figures["idle"].append(p50(files, target, side, ours, settings))
            with workers(2, ours.folder, target.engines[0].threads):
                figures["turnstile"].append(p50(files, target, side, ours, settings))
            with workers(2, theirs.folder, target.engines[0].threads):
                figures["naive"].append(p50(files, target, side, ours, naive))
    medians = {name: sorted(values)[len(values) // 2] for name, values in figures.items()}
    return {
        "engine": target.engines[0].name,
        "threads": target.engines[0].threads,
        **{f"{name}_ms": value for name, value in medians.items()},
        "turnstile_ratio": medians["turnstile"] / medians["idle"],
        "naive_ratio": medians["naive"] / medians["idle"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, a row for each engine and thread count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino", "deepsparse"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the rows to a file")
    args = parser.parse_args(arguments)
    rows = []
    print(machine(max(args.threads)))
    print(f"{'engine':<12} threads   idle ms  turnstile ms (ratio)  naive ms (ratio)")
    for target, files in engines_with_files(args.engines, args.resolution):
        for threads in args.threads:
            if threads > target.host["cores"]:
                continue
            engines = (replace(target.engines[0], threads=threads),)
            row = compare(replace(target, engines=engines), files, args.resolution, args.repeats)
            rows.append(row)
            print(
                f"{row['engine']:<12} {threads:>7} {row['idle_ms']:>9.3f} {row['turnstile_ms']:>10.3f} "
                f"({row['turnstile_ratio']:.3f}) {row['naive_ms']:>12.3f} ({row['naive_ratio']:.2f})",
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
