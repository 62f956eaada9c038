"""Search for the Pareto front of Dice and latency, and export its members as bundles.

The study's settings come from a YAML file (--study), and every flag changes one of them. Everything is written below
--runs; the same command goes on where an interrupted search stopped.

examples:
  autocompress search --target cpu --min-dice 75 --budget 15m
  autocompress search --data ../synapse --target cpu-openvino --max-latency 20 --budget 2h --study synapse
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.cli.arguments import add_host_argument, hosts_of, tell_about_hosts
from autocompress.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress search``."""
    what = parser.add_argument_group("what to search")
    what.add_argument("--study", metavar="NAME", help="a study's YAML by name or path, or a name for a new study")
    what.add_argument(
        "--target",
        metavar="NAME",
        action="append",
        help="hardware profile by name or path (see 'autocompress targets'); several: one latency is minimised on each",
    )
    add_host_argument(what)
    what.add_argument(
        "--measure-later",
        action="store_true",
        help="train on by predicted latency while a host cannot be reached, and measure when it is back",
    )
    what.add_argument("--engines", metavar="A,B", help="use only these engines of the target")
    what.add_argument("--predict", action="store_true", help="predict latency and memory; the target is not at hand")
    what.add_argument("--data", metavar="PATH", help="data set: a folder, or 'phantoms'")
    what.add_argument("--family", metavar="NAME", help="model family (see 'autocompress list models')")
    what.add_argument("--space", metavar="NAME", help="search space by name or path")
    what.add_argument("--objective", metavar="NAME", help="objective by name or path")
    limits = parser.add_argument_group("what the front must keep to")
    limits.add_argument("--min-dice", type=float, metavar="PERCENT", help="least mean Dice on the validation volumes")
    limits.add_argument("--max-latency", type=float, metavar="MS", help="longest latency in milliseconds")
    limits.add_argument("--max-memory", metavar="SIZE", help="largest memory of the engine, such as 512MB")
    limits.add_argument("--max-size", metavar="SIZE", help="largest model file, such as 10MB")
    budget = parser.add_argument_group("what it may cost")
    budget.add_argument("--budget", metavar="TIME", help="wall time of all of it, such as 90s, 15m, 1h30m")
    budget.add_argument("--trials", type=int, metavar="N", help="number of configurations to try")
    budget.add_argument("--trial-seconds", metavar="TIME", help="training time of each trial, or 'auto'")
    budget.add_argument("--workers", type=int, metavar="N", help="trials at once")
    how = parser.add_argument_group("how")
    how.add_argument("--sampler", metavar="NAME", help="auto, gp, tpe, nsga2 or random")
    how.add_argument("--seed", type=int, metavar="N", help="of splits, sampler and training")
    how.add_argument("--parent", metavar="PATH", help="inherit from this bundle or trained parent; none is trained")
    how.add_argument("--no-parent", action="store_true", help="train every trial from scratch")
    how.add_argument("--no-distill", action="store_true", help="do not let the parent network teach the trials")
    how.add_argument("--recipe", metavar="FILE", help="your own SparseML recipe for trials with unstructured pruning")
    how.add_argument("--no-stopping", action="store_true", help="train every trial to its end")
    how.add_argument("--warm-start", metavar="STUDY", help="try the front of another study first")
    how.add_argument("--no-priors", action="store_true", help="do not begin with the paper's steps A to D")
    how.add_argument(
        "--runs",
        "--out",
        dest="out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where studies are kept (runs)",
    )
    how.add_argument("--storage", metavar="URL", help="database (SQLite in the study's folder)")
    how.add_argument("--ray-address", metavar="ADDRESS", help="use a running Ray cluster: HOST:PORT, or auto")
    how.add_argument("--ray-dashboard", action="store_true", help="start Ray's own dashboard, and tell its address")
    how.add_argument(
        "--gpus-per-trial", type=float, default=0.0, metavar="SHARE", help="of a GPU, such as 0.5 for two trials on one"
    )
    how.add_argument(
        "--artifacts", metavar="PLACE", help="keep the front's bundles there too: a folder, or s3://BUCKET"
    )
    how.add_argument("--json", action="store_true", help="print events as JSON lines; the last one is the result")


def run(args: argparse.Namespace) -> int:
    """Search."""
    begun = time.monotonic()
    from rich.console import Console

    from autocompress.search.display import Display
    from autocompress.search.resolve import overrides_of, resolve
    from autocompress.search.session import run_search

    tell_about_hosts()
    # With --json standard output belongs to the events.
    console = Console(stderr=args.json)
    plan = resolve(
        args.study,
        overrides=overrides_of(vars(args)),
        out=args.out,
        storage=args.storage,
        engines=None if args.engines is None else [name.strip() for name in args.engines.split(",")],
        priors=not args.no_priors,
        ray_address=args.ray_address,
        predict=args.predict,
        hosts=hosts_of(args),
        measure_later=args.measure_later,
        gpus_per_trial=args.gpus_per_trial,
        ray_dashboard=args.ray_dashboard,
        artifacts=args.artifacts,
    )
    title = f"study {plan.name}: {plan.family} on {plan.data['name_or_path']} for {', '.join(plan.target_names)}"
    with Display(console, title, plan.budget_seconds, plan.trials) as display:

        def listener(event: Mapping[str, Any]) -> None:
            display(event)
            if args.json and event["event"] != "tick":
                print(json.dumps(event), flush=True)

        try:
            outcome = run_search(plan, listener, begun=begun)
        except KeyboardInterrupt:
            display(
                {"event": "note", "text": "interrupted; nothing that was finished is lost: repeat the command to go on"}
            )
            raise
    if args.json:
        print(json.dumps(outcome.to_dict()), flush=True)
    else:
        from autocompress.search.summary import print_summary

        print_summary(console, outcome, plan)
    if outcome.front:
        return ExitCode.DONE
    if args.json:
        console.print(outcome.nearest_miss, highlight=False, markup=False, soft_wrap=True)
    return ExitCode.NOTHING_FEASIBLE
