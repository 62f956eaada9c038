"""How much does a latency differ from one process to the next? The same file, measured again and again.

    python benchmarks/repeatability.py [--times 20] [--engines onnxruntime openvino] [--json FILE]

Spread is the largest value divided by the smallest. On an otherwise idle machine it is to be at most 1.05 for p50 and
1.10 for p90; `disturbed` counts the measurements in which others used the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _engines import engines_with_files
from _turns import machine

from autocompress.errors import UserError
from autocompress.hardware.candidates import noise
from autocompress.hardware.measure import measure
from autocompress.hardware.targets import Target


def spread(values: Sequence[float]) -> float:
    """Largest divided by smallest."""
    return max(values) / min(values)


def repeat(target: Target, files: dict[str, Path], side: int, times: int) -> dict[str, Any]:
    """Measure one file several times, each in a process of its own."""
    measured = []
    for _ in range(times):
        best = measure(files, target, inputs=noise(4, 1, side, side)).best
        if best is None or best.latency is None:
            raise UserError(f"{target.engines[0].name} did not run the model")
        measured.append(best)
    p50 = [each.latency.p50 for each in measured if each.latency is not None]
    p90 = [each.latency.p90 for each in measured if each.latency is not None]
    return {
        "engine": target.engines[0].name,
        "threads": target.engines[0].threads,
        "times": times,
        "p50_ms": sorted(p50)[len(p50) // 2],
        "p50_spread": spread(p50),
        "p90_ms": sorted(p90)[len(p90) // 2],
        "p90_spread": spread(p90),
        "disturbed": sum(each.disturbed for each in measured),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, a row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino", "deepsparse"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--json", metavar="FILE", help="write the rows to a file")
    args = parser.parse_args(arguments)
    rows = []
    print(machine(os.cpu_count() or 1))
    print(f"{'engine':<12} threads  times    p50 ms  spread    p90 ms  spread  disturbed")
    for target, files in engines_with_files(args.engines, args.resolution):
        row = repeat(target, files, args.resolution, args.times)
        rows.append(row)
        print(
            f"{row['engine']:<12} {row['threads']:>7} {row['times']:>6} "
            f"{row['p50_ms']:>9.3f} {row['p50_spread']:>7.3f} "
            f"{row['p90_ms']:>9.3f} {row['p90_spread']:>7.3f} {row['disturbed']:>10}",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
