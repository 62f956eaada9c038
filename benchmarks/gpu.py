"""DAE-Former on an NVIDIA GPU by PyTorch: number formats, and operator by operator against one CUDA graph.

    python benchmarks/gpu.py [--rounds 3] [--levels 3 2] [--resolutions 224 128 64] [--json FILE]

Full-width networks with random weights: latency depends on shapes, not on what was learned. Every time is that of a
caller: image to the GPU, network, logits back. The lines of a table are measured in turns, each in a process of its
own; a figure is the median of the rounds' p50. Energy is that of the whole GPU, idle power included. The difference
is that of the logits to float32 operator by operator, relative to the largest of them.

Without a GPU that PyTorch can use it says so and ends with 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from _turns import machine

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.hardware.candidates import export_untrained, noise
from autocompress.hardware.infer import EngineError, infer
from autocompress.hardware.measure import measure
from autocompress.hardware.records import Measurement
from autocompress.hardware.targets import Target, resolve_target
from autocompress.specs.library import load_spec

PROCESSORS_ALONE = 2
"""Exit code where there is no GPU."""


@dataclass
class Line:
    """One line of a table: a number format, run operator by operator or as a graph, and what it took in each round."""

    precision: str
    graphs: bool
    measurements: list[Measurement] = field(default_factory=list)
    difference: float | None = None
    failure: str = ""

    @property
    def p50(self) -> float:
        """Median of the rounds in milliseconds; not a number where nothing ran."""
        found = [each.latency.p50 for each in self.measurements if each.latency is not None]
        return statistics.median(found) if found else float("nan")

    @property
    def p90(self) -> float:
        """Likewise of p90."""
        found = [each.latency.p90 for each in self.measurements if each.latency is not None]
        return statistics.median(found) if found else float("nan")

    @property
    def millijoules(self) -> float | None:
        """Energy of one inference; None where the GPU does not tell."""
        found = [each.energy_joules for each in self.measurements if each.energy_joules is not None]
        return 1e3 * statistics.median(found) if found else None

    @property
    def gpu_bytes(self) -> int | None:
        """Peak of the GPU memory that tensors took."""
        found = [each.conditions["engine_details"].get("gpu_peak_memory_bytes") for each in self.measurements]
        return max((each for each in found if each is not None), default=None)


def with_graphs(target: Target, graphs: bool) -> Target:
    """The target with PyTorch alone, which records a graph or not."""
    engine = replace(target.engine("torch"), options={"cuda_graphs": graphs})
    return replace(target, engines=(engine,))


def table(target: Target, levels: int, resolution: int, rounds: int) -> list[Line]:
    """All lines of one network at one resolution."""
    config = CompressionConfig(resolution, levels)
    engine = target.engine("torch")
    lines = [Line(precision, graphs) for precision in engine.precisions for graphs in (False, True)]
    images = noise(4, 1, resolution, resolution)
    with tempfile.TemporaryDirectory(prefix="autocompress-gpu-") as folder:
        path = export_untrained(config, [engine], Path(folder), family="dae-former")["torch"]
        for _ in range(rounds):
            for line in lines:
                if line.failure:
                    continue
                place = with_graphs(target, line.graphs)
                (found,) = measure(path, place, inputs=images, precision=line.precision).measurements
                line.measurements.append(found)
                line.failure = "" if found.ok else f"{found.outcome}: {found.message}"
        _compare(path, target, lines, images)
    return lines


def _compare(path: Path, target: Target, lines: Sequence[Line], images: Any) -> None:
    """Fill in the difference of each line's logits to those of the first one."""
    exact = None
    for line in lines:
        if line.failure:
            continue
        place = with_graphs(target, line.graphs)
        try:
            logits = next(infer(path, place.engines[0], place, [images], precision=line.precision))
        except EngineError as error:
            line.failure = str(error)
            continue
        exact = logits if exact is None else exact
        line.difference = float(np.abs(logits - exact).max() / np.abs(exact).max())


def show(lines: Sequence[Line]) -> None:
    """Print a table in Markdown."""
    print("| precision | run as | p50 ms | p90 ms | speed by graph | speed over fp32 | mJ | GPU MB | difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in lines:
        head = f"| {line.precision} | {'one CUDA graph' if line.graphs else 'operators'} |"
        if line.failure:
            print(f"{head} {line.failure} | | | | | | |")
            continue
        other = next(each for each in lines if each.precision == line.precision and each.graphs != line.graphs)
        first = next(each for each in lines if each.graphs == line.graphs)
        gain = f"{other.p50 / line.p50:.2f}" if line.graphs else ""
        energy = "" if line.millijoules is None else f"{line.millijoules:.1f}"
        memory = "" if line.gpu_bytes is None else f"{line.gpu_bytes / 1e6:.0f}"
        print(
            f"{head} {line.p50:.3f} | {line.p90:.3f} | {gain} | {first.p50 / line.p50:.2f} | {energy} | {memory} | "
            f"{line.difference:.1e} |",
            flush=True,
        )


def describe(target: Target, line: Line) -> None:
    """Print the machine, the GPU, its driver, and the versions."""
    print(machine(target.engine("torch").threads))
    details = line.measurements[0].conditions.get("engine_details", {})
    gpu = line.measurements[0].conditions.get("gpu", {})
    print(
        f"{details.get('gpu')} (compute capability {details.get('compute_capability')}), "
        f"driver {details.get('driver')}, CUDA {details.get('cuda')}, cuDNN {details.get('cudnn')}, "
        f"power limit {gpu.get('power_limit_w')} W, largest SM clock {gpu.get('max_sm_clock_mhz')} MHz"
    )
    before, after = gpu.get("before") or {}, gpu.get("after") or {}
    print(
        f"first measurement: SM clock {before.get('sm_clock_mhz')} to {after.get('sm_clock_mhz')} MHz, "
        f"{after.get('temperature_c')} °C, {after.get('power_w')} W, {after.get('other_processes')} other processes"
    )


def main() -> int:
    """Print the tables; the exit code is 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each line (default 3)")
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 2], help="of the networks (default 3 2)")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[224, 128, 64], help="(default 224 128 64)")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    options = parser.parse_args()
    try:
        target = resolve_target(load_spec("target", "gpu"), engines=["torch"])
    except UserError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return PROCESSORS_ALONE
    everything = []
    for levels in options.levels:
        for resolution in options.resolutions:
            lines = table(target, levels, resolution, options.rounds)
            if not everything:
                describe(target, lines[0])
            print(f"\nDAE-Former, {levels} levels, {resolution} x {resolution}\n")
            show(lines)
            everything += [
                {
                    "levels": levels,
                    "resolution": resolution,
                    "precision": line.precision,
                    "cuda_graphs": line.graphs,
                    "difference": line.difference,
                    "measurements": [each.to_dict() for each in line.measurements],
                }
                for line in lines
            ]
    if options.json is not None:
        options.json.write_text(json.dumps(everything, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
