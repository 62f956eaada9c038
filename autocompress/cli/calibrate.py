"""Measure a spread of small networks on a target, and learn to predict the latency and memory of all others.

Each configuration is exported with random weights and measured on every engine of the target; it takes some seconds.
What was measured is kept: after an interruption the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from autocompress.cli.arguments import add_host_argument, engine_names, with_hosts
from autocompress.errors import ExitCode, TargetError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from autocompress.hardware.calibration import Calibration
    from autocompress.hardware.targets import Target

NAME = "calibrate"
HELP = "measure some networks on a target and learn to predict the others"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress calibrate``."""
    parser.add_argument("target", metavar="TARGET", help="hardware profile by name or path")
    add_host_argument(parser)
    parser.add_argument("--measurements", metavar="N", type=int, default=50, help="configurations to measure [50]")
    parser.add_argument(
        "--space",
        metavar="NAME",
        help="search space by name or path [full, up to 224 pixels, as the target can run it]",
    )
    parser.add_argument("--engines", metavar="A,B", help="only these engines of the target")
    parser.add_argument("--family", metavar="NAME", default="dae-former", help="model family [dae-former]")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the choice of configurations [0]")
    parser.add_argument("--in-channels", metavar="N", type=int, default=1, help="of the networks [1]")
    parser.add_argument("--classes", metavar="N", type=int, default=9, help="of the networks [9]")
    parser.add_argument("--remeasure", action="store_true", help="forget what was measured before")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Calibrate one target."""
    from rich.console import Console

    from autocompress.hardware.calibration import Networks, calibrate, first_guess
    from autocompress.hardware.spread import calibration_space, candidates, spread
    from autocompress.hardware.targets import resolve_target
    from autocompress.specs.library import load_spec

    _check(args)
    profile = with_hosts(load_spec("target", args.target), args)
    target = resolve_target(profile, engines=engine_names(args.engines))
    configs = spread(
        candidates(calibration_space(target, args.space), args.family, target), args.measurements, args.seed
    )
    # With --json standard output belongs to the result.
    with _Display(Console(stderr=args.json), target.name, len(configs)) as display:
        found = calibrate(
            target,
            configs,
            first_guess(profile),
            networks=Networks(args.family, args.in_channels, args.classes),
            remeasure=args.remeasure,
            listener=display,
        )
    if not any(each.samples for each in found):
        raise TargetError(f"target {target.name} was not calibrated: {_blame(found)}")
    if args.json:
        print(json.dumps({"target": target.name, "engines": [each.to_dict() for each in found], **_notices(target)}))
    else:
        _show(Console(), target, found)
    return ExitCode.DONE


def _check(args: argparse.Namespace) -> None:
    if args.measurements < 1:
        raise UserError(f"--measurements {args.measurements}: at least 1 is needed, and 50 are recommended")
    if args.in_channels < 1 or args.classes < 2:
        raise UserError("--in-channels must be at least 1 and --classes at least 2")


def _blame(found: Sequence[Calibration]) -> str:
    """Why no engine has a usable measurement."""
    if any(each.disturbed for each in found):
        return "others used the machine during every measurement; see autocompress probe"
    return next((each.failures[0] for each in found if each.failures), "there was nothing to measure")


def _notices(target: Target) -> dict[str, Any]:
    return {"notices": [engine.notice for engine in target.engines if engine.notice]}


class _Display:
    """Progress with the time that is left on a terminal, plain lines elsewhere; it is the listener too."""

    def __init__(self, console: Console, target: str, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # The networks become larger: only the last ones tell how long the next take.
            speed_estimate_period=60.0,
        )
        self._task = self._progress.add_task(target, total=total)
        self._kept = 0

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._line(f"what was measured is kept ({self._kept} configurations); the same command goes on")

    def __call__(self, step: Any) -> None:
        """Take note of a configuration that is done."""
        self._kept += bool(step.latencies)
        for remark in step.remarks:
            self._line(remark)
        self._progress.update(self._task, completed=step.done, description=step.label)
        if not self._console.is_terminal:
            times = ", ".join(f"{name} {latency:.2f} ms" for name, latency in step.latencies.items())
            self._line(f"[{step.done}/{step.total}] {step.label}: {times or 'nothing'}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _show(console: Console, target: Target, found: Sequence[Calibration]) -> None:
    from rich.table import Table

    table = Table(title=f"predictors for {target.name}", caption="errors: each tenth of the samples from the others")
    for name in ("engine", "samples", "disturbed", "failed", "median error", "within 10 %", "in interval"):
        # In two lines at most, so that 80 columns are enough.
        table.add_column(name, justify="left" if name == "engine" else "right", no_wrap=name == "engine")
    for each in found:
        scores = each.scores
        shares = [] if scores is None else [scores.median, scores.within, scores.coverage]
        counts = (each.samples, each.disturbed, len(each.failures))
        table.add_row(each.engine, *map(str, counts), *(f"{100 * share:.1f} %" for share in shares))
    console.print(table)
    for each in found:
        lines = [each.shortage] if each.shortage else []
        lines += [f"{each.engine} {each.version}: predictor in {each.path}"] if each.path is not None else []
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for notice in _notices(target)["notices"]:
        console.print(f"note: {notice}", highlight=False, markup=False, soft_wrap=True)
