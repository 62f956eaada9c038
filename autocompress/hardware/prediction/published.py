"""The published Jetson Nano figures, the networks that they belong to, and the coefficients that explain them.

Source: Embedded-ViT (seed paper of this project), Table 3 (parameters, GMacs) and Table 5 (frames per second), column
Jetson Nano. The paper shrank the channels at 128 and 64 pixels by hand and does not say how: `widths` looks for ours.

`published.json` beside this file is what ``derive(folder)`` returned; it is made again, in some minutes, by::

    python -c "from autocompress.hardware.prediction.published import Path, rewrite; rewrite(Path('exported'))"
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.config import CompressionConfig
from autocompress.hardware.prediction.features import GraphCosts, graph_costs
from autocompress.hardware.prediction.fit import fit_roofline
from autocompress.hardware.prediction.roofline import Roofline
from autocompress.paths import make_dir, write_json

DATA = Path(__file__).with_name("published.json")
OPSET = 13
"""The newest that TensorRT on the Nano reads."""
NANO_FREE_BYTES = 2_500_000_000
"""Of the board's 4 GB, what the system leaves to a model and its engine in practice."""


@dataclass(frozen=True)
class Family:
    """One of the paper's three networks.

    Attributes:
        name: as in the paper's tables.
        levels, grouping: of the configuration.
        parameters, gmacs: by resolution, in millions and 10^9, as the paper counts (Table 3).
        live_share: share of the declared parameters that take part in the output (measured at 224).
        single_share: GMacs of the same function computed once / published GMacs (measured at 224): the public release
            evaluates the first Linear of every MixFFN twice.
    """

    name: str
    levels: int
    grouping: str
    parameters: Mapping[int, float]
    gmacs: Mapping[int, float]
    live_share: float
    single_share: float


FAMILIES = (
    Family(
        "DAE-Former", 3, "depthwise", {224: 48.07, 128: 9.83, 64: 2.53}, {224: 26, 128: 1.67, 64: 0.11},
        29.69 / 48.07, 20.05 / 26.17,
    ),
    Family(
        "Step B grouped", 2, "depthwise", {224: 29.26, 128: 5.08, 64: 1.31}, {224: 14.8, 128: 0.88, 64: 0.06},
        7.84 / 29.26, 11.57 / 14.93,
    ),
    Family(
        "Step B dense", 2, "dense", {224: 333.98, 128: 53.82, 64: 13.48}, {224: 127.47, 128: 6.98, 64: 0.44},
        87.97 / 333.98, 124.23 / 127.59,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One entry of Table 5, column Jetson Nano.

    Attributes:
        family: name of a `Family`.
        resolution: 224, 128 or 64.
        precision: fp32 or fp16.
        fps: frames per second; None where the paper could not run the network on the board.
        in_fit: whether the coefficients were fitted to it; the others tell how far they can be trusted.
    """

    family: str
    resolution: int
    precision: str
    fps: float | None
    in_fit: bool = False


# In the fit: one cell of each network, the one at another resolution, and one in FP16. Held out: half of the table.
TABLE_5 = (
    Cell("DAE-Former", 224, "fp32", None),
    Cell("DAE-Former", 128, "fp32", None),
    Cell("DAE-Former", 64, "fp32", 28.96, in_fit=True),
    Cell("Step B grouped", 224, "fp32", None),
    Cell("Step B grouped", 128, "fp32", 5.26, in_fit=True),
    Cell("Step B grouped", 64, "fp32", 45.49),
    Cell("Step B dense", 224, "fp32", None),
    Cell("Step B dense", 128, "fp32", None),
    Cell("Step B dense", 64, "fp32", 20.98, in_fit=True),
    Cell("DAE-Former", 64, "fp16", 14.15),
    Cell("Step B grouped", 128, "fp16", 2.94),
    Cell("Step B grouped", 64, "fp16", 22.40, in_fit=True),
    Cell("Step B dense", 64, "fp16", 10.06),
)

# The board's processor and libraries, as a place to begin: 4 cores with 4 multiply-accumulates a cycle at 1.43 GHz are
# 46 GFLOPS; half of the memory's 25.6 GB/s. FP16 is converted to and fro, so that it gains neither in arithmetic nor by
# its fewer bytes.
START = replace(
    Roofline.from_profile({"fp32": 46.0, "fp16": 23.0}, 12.8, 20.0), carrying={"fp16": 0.25, "bf16": 1.0, "int8": 1.0}
)


def family(name: str) -> Family:
    """The family of that name."""
    return next(each for each in FAMILIES if each.name == name)


def width_of(wanted: Family, resolution: int) -> float:
    """Our width, in steps of 1/32, whose live parameters and GMacs are nearest to the published network's."""
    from autocompress.models import build
    from autocompress.models.complexity import complexity

    if resolution == 224:
        return 1.0

    def distance(width: float) -> float:
        config = _config(wanted, resolution, width, "fp32")
        counted = complexity(build("dae-former", config, in_channels=1, num_classes=9), 1, resolution)
        parameters = wanted.parameters[resolution] * wanted.live_share * 1e6
        gmacs = wanted.gmacs[resolution] * wanted.single_share
        return abs(math.log(counted.parameters / parameters)) + abs(math.log(counted.gmacs / gmacs))

    return min((step / 32 for step in range(5, 18)), key=distance)


def costs_of(cell: Cell, width: float, folder: Path) -> GraphCosts:
    """Export the network of a cell, as TensorRT would get it, and count what it costs.

    Args:
        cell: of `TABLE_5`.
        width: see `width_of`.
        folder: for the files; it must exist.
    """
    from autocompress.hardware.candidates import export_untrained
    from autocompress.hardware.targets import Engine

    engine = Engine("tensorrt", "", ("fp32", "fp16"), ("none", "channel"), OPSET, 1)
    config = _config(family(cell.family), cell.resolution, width, cell.precision)
    path = export_untrained(config, [engine], folder, family="dae-former")["tensorrt"]
    return graph_costs(path, cell.precision)


def _config(wanted: Family, resolution: int, width: float, precision: str) -> CompressionConfig:
    return CompressionConfig.from_dict(
        {
            "resolution": resolution,
            "levels": wanted.levels,
            "width": width,
            "grouping": wanted.grouping,
            "precision": precision,
        }
    )


def derive(folder: Path) -> dict[str, Any]:
    """Widths, coefficients and the prediction of every cell, as plain values.

    Args:
        folder: for exported files, up to 400 MB at a time; made where it is missing.
    """
    make_dir(folder)
    widths = {each.name: {str(side): width_of(each, side) for side in (224, 128, 64)} for each in FAMILIES}
    costs = {cell: costs_of(cell, widths[cell.family][str(cell.resolution)], folder) for cell in TABLE_5}
    chosen = [cell for cell in TABLE_5 if cell.in_fit]
    log_ms = np.array([math.log(1000 / cell.fps) for cell in chosen if cell.fps is not None])
    fitted = fit_roofline([costs[cell] for cell in chosen], log_ms, START)
    roofline = _with_memory(fitted, costs)
    cells = [
        {
            "family": cell.family,
            "resolution": cell.resolution,
            "precision": cell.precision,
            "predicted_ms": round(roofline.latency_ms(each), 3),
            "predicted_bytes": roofline.memory_bytes(each),
            "macs": each.macs,
        }
        for cell, each in costs.items()
    ]
    return {"widths": widths, "roofline": roofline.to_dict(), "cells": cells}


def _with_memory(roofline: Roofline, costs: Mapping[Cell, GraphCosts]) -> Roofline:
    """Memory coefficients that tell what the paper ran from what did not fit, with the widest margin.

    Software that fails with a few megabytes of weights on a board of gigabytes has large factors; how its memory is
    made up is not published, so that these coefficients reproduce the table and explain nothing.
    """
    from scipy.optimize import linprog

    # Maximise m, with process + w W + a A = limit (1 -+ m) at least; process is held at what a bare runtime takes.
    process = 400e6
    rows, limits = [], []
    for cell, each in costs.items():
        sign = 1.0 if cell.fps is not None else -1.0
        rows.append([sign * each.weight_bytes, sign * each.peak_activation_bytes, float(NANO_FREE_BYTES)])
        limits.append(sign * (NANO_FREE_BYTES - process - roofline.operator_bytes * each.launches))
    solution = linprog([0, 0, -1], A_ub=rows, b_ub=limits, bounds=[(0.1, None), (0.1, None), (0, None)])
    weight, activation, _ = (float(value) for value in solution.x)
    return replace(roofline, process_bytes=process, weight_factor=weight, activation_factor=activation)


def rewrite(folder: Path) -> None:
    """Make ``published.json`` again.

    Args:
        folder: as in `derive`.
    """
    write_json(DATA, derive(folder))
