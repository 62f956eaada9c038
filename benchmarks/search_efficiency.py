"""What a search costs: feasible hypervolume against compute, ours beside plain Optuna, replayed on a recorded table.

    python benchmarks/search_efficiency.py [--table benchmarks/tables/phantoms.json] [--seeds 10] [--json FILE]

The table holds what each configuration of a space took and reached when it was really trained (`record_table.py`).
*Ours* is the driver of `autocompress search` with its stopping rule and sampler under simulated time; *plain* is
Optuna's ask and tell with its own default settings and full training of whatever it proposes, its gate included.
Nothing is interpolated: the rungs are those of the table, and only configurations of the table are tried.

Compute is the seconds of all workers together: gate, training up to where a trial came, and the end. Hypervolume is
that of Dice and the logarithm of latency over the worst of the table (with ``--min-dice`` over that constraint), as a
share of the whole table's. A run that does not get to 95 % within ``--until`` times the compute of everything counts
with that. The parent is trained once, whoever searches, and is told apart.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from _turns import machine

from autocompress.errors import UserError
from autocompress.search.simulator import Goal, Row, Table, Trace, simulate, simulate_plain
from autocompress.specs.schemas import Constraints

TABLE = Path(__file__).parent / "tables" / "phantoms.json"
ENOUGH = 0.95
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the compute of training everything, at which the hypervolume is told."""

OURS: Mapping[str, Mapping[str, Any]] = {
    "ours (auto)": {"sampler": "auto"},
    "ours, TPE": {"sampler": "tpe"},
    "ours, random": {"sampler": "random"},
    "ours, no stopping": {"sampler": "auto", "stopping": False},
    "ours, no priors": {"sampler": "auto", "priors": False},
}
PLAIN: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "Optuna TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "Optuna NSGA-II": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "Optuna GP": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def one(table: Table, constraints: Constraints, until: float, workers: int, job: tuple[str, int]) -> Trace:
    """One method with one seed."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, seed = job
    ends: dict[str, Any] = {"constraints": constraints, "until": until, "enough": ENOUGH, "workers": workers}
    if name in OURS:
        return simulate(table, seed=seed, **OURS[name], **ends)
    return simulate_plain(table, PLAIN[name](seed), **ends)


def enough_rows(goal: Goal, table: Table) -> list[Row]:
    """Rows that are enough for 95 % of the hypervolume, each the one that adds most: what knowing all would cost."""
    chosen: list[Row] = []
    left = [row for row in table.rows.values() if row.dice >= (goal.constraints.min_dice or 0.0)]

    def share(rows: Sequence[Row]) -> float:
        return goal.share((row.dice, row.latency_ms) for row in rows)

    while share(chosen) < ENOUGH:
        best = max(left, key=lambda row: share([*chosen, row]))
        chosen.append(best)
        left.remove(best)
    return chosen


def summary(name: str, traces: Sequence[Trace], everything: float, until: float) -> dict[str, Any]:
    """The means of one method over its seeds; compute as a share of everything's."""
    reached = [trace.compute_to(ENOUGH) for trace in traces]
    counted = [min(each, until) / everything for each in reached]
    # A run ends when it is there, and keeps what it has.
    return {
        "method": name,
        "seeds": len(traces),
        "reached": sum(map(math.isfinite, reached)),
        "compute_mean": statistics.fmean(counted),
        "compute_median": statistics.median(counted),
        "compute_worst": max(counted),
        "begun": statistics.fmean(trace.points[-1].begun for trace in traces),
        "finished": statistics.fmean(trace.finished for trace in traces),
        "hypervolume": {
            f"{share:g}": statistics.fmean(trace.share_at(share * everything) for trace in traces) for share in SHARES
        },
        "note": traces[0].note,
    }


def compare(
    table: Table, constraints: Constraints, methods: Sequence[str], *, seeds: int, until: float, jobs: int, workers: int
) -> list[dict[str, Any]]:
    """Print a row for each method as soon as it is known, and return them all."""
    everything = table.seconds
    print(
        f"{'method':<18} {'to 95 %: mean':>13} {'median':>7} {'worst':>7} {'there':>6} {'begun':>6} {'full':>5}  ",
        end="",
    )
    print("  ".join(f"{100 * share:>4.0f} %" for share in SHARES), flush=True)
    rows = []
    with ProcessPoolExecutor(jobs) as pool:
        for name in methods:
            task = partial(one, table, constraints, until * everything, workers)
            traces = list(pool.map(task, [(name, seed) for seed in range(seeds)]))
            row = summary(name, traces, everything, until * everything)
            rows.append(row)
            print(
                f"{name:<18} {100 * row['compute_mean']:>11.1f} % {100 * row['compute_median']:>5.1f} % "
                f"{100 * row['compute_worst']:>5.1f} % {row['reached']:>3}/{seeds:<2} {row['begun']:>6.1f} "
                f"{row['finished']:>5.1f}  "
                + "  ".join(f"{100 * each:>4.1f} %" for each in row["hypervolume"].values()),
                flush=True,
            )
    return rows


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean compute to 95 % of each plain method over that of ours; a lower bound where a run did not get there."""
    found = {row["method"]: row["compute_mean"] for row in rows}
    ours = found.get("ours (auto)")
    return {} if ours is None else {name: found[name] / ours for name in PLAIN if name in found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table without a constraint and one with, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--min-dice", type=float, nargs="*", default=[70.0], help="one more comparison for each")
    parser.add_argument("--workers", type=int, default=1, help="trials at once, simulated")
    parser.add_argument("--until", type=float, default=1.0, help="times the compute of everything at which a run ends")
    parser.add_argument("--methods", nargs="+", default=[*OURS, *PLAIN], choices=[*OURS, *PLAIN], metavar="NAME")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="simulations at once")
    parser.add_argument("--json", metavar="FILE", help="write the rows to a file")
    args = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        table = Table.load(args.table)
        print(machine(args.jobs))
        print(f"optuna {version('optuna')}; simulated workers: {args.workers}; seeds: {args.seeds}")
        print(f"{args.table}: {len(table.rows)} configurations, {table.seconds:.0f} s to train all of them")
        print(f"the parent, which every row inherits from, took {table.parent_seconds:.0f} s and is not counted")
        comparisons = []
        for least in [None, *args.min_dice]:
            constraints = Constraints(min_dice=least)
            goal = Goal.of(table, constraints)
            what = "no constraint" if least is None else f"Dice at least {least:g}"
            print(f"\n{what}; hypervolume above Dice {goal.reference[0]:.1f} and below {goal.reference[1]:.2f} ms")
            enough = enough_rows(goal, table)
            share = sum(row.seconds for row in enough) / table.seconds
            print(f"{len(enough)} trials are enough, for who knows which: {100 * share:.1f} % of the compute")
            rows = compare(
                table,
                constraints,
                args.methods,
                seeds=args.seeds,
                until=args.until,
                jobs=args.jobs,
                workers=args.workers,
            )
            factors = ratios(rows)
            if factors:
                print(
                    "compute to 95 % over ours: " + ", ".join(f"{name} {each:.1f}x" for name, each in factors.items())
                )
            comparisons.append({"min_dice": least, "reference": goal.reference, "rows": rows, "ratios": factors})
    except UserError as error:
        print(f"search_efficiency: error: {error}", file=sys.stderr)
        return 2
    print(f"\n{time.monotonic() - begun:.0f} s for all of it")
    if args.json:
        values = {
            "table": str(args.table),
            "configurations": len(table.rows),
            "everything_seconds": table.seconds,
            "parent_seconds": table.parent_seconds,
            "seeds": args.seeds,
            "workers": args.workers,
            "machine": machine(args.jobs),
            "packages": {name: version(name) for name in ("optuna", "torch", "numpy")},
            "comparisons": comparisons,
        }
        Path(args.json).write_text(json.dumps(values, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
