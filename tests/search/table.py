"""A table of a search space by formulas, for searches that are simulated."""

from __future__ import annotations

import itertools
import math
from typing import Any

from autocompress.search import simulator
from autocompress.search.plan import SearchPlan
from autocompress.search.simulator import Table
from autocompress.specs.schemas import Constraints

SPACE = {
    "resolution": [32, 64, 96, 128],
    "levels": [1, 2],
    "width": [0.125, 0.25, 0.5],
    "grouping": ["depthwise", "dense"],
    "precision": ["fp32"],
}
GATE, FINISH, TRAIN = 2.0, 1.0, 27.0


def values() -> dict[str, Any]:
    """48 configurations: larger ones are slower and better, dense ones are slower and worse."""
    rows = []
    for resolution, levels, width, grouping in itertools.product(*(SPACE[name] for name in list(SPACE)[:4])):
        work = (resolution / 32) ** 2 * width * levels
        dense = grouping == "dense"
        dice = 55 + 8 * math.log2(1 + work) - 6 * dense
        rows.append(
            {
                "config": {"resolution": resolution, "levels": levels, "width": width, "grouping": grouping},
                "latency_ms": 0.5 + work * (1.5 if dense else 1.0),
                "memory_bytes": 10_000_000,
                "size_bytes": round(1_000_000 * width),
                "gate_seconds": GATE,
                "finish_seconds": FINISH,
                "rungs": [
                    {"share": share, "dice": dice - drop, "seconds": share * TRAIN}
                    for share, drop in ((1 / 9, 20), (1 / 3, 8), (1.0, 0))
                ],
            }
        )
    return {
        "schema": "autocompress-table/1",
        "dataset": "formulas",
        "machine": {},
        "parent_seconds": 0.0,
        "space": SPACE,
        "rows": rows,
    }


def plan(**changes: Any) -> SearchPlan:
    """A study's plan for the table."""
    settings = {"workers": 1, "seed": 0, "sampler": "random", "startup": 4, "constraints": Constraints()}
    settings |= {"trials": None, "rungs": (1 / 9, 1 / 3), "eta": 3, "trial_seconds": TRAIN}
    return simulator.plan_for(table(), **{**settings, **changes})


def table() -> Table:
    """The same as a `Table`."""
    return Table.from_dict(values(), "formulas")
