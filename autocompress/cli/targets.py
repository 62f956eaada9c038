"""Tell which targets can be used on this machine, with which engines, and why others cannot."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from autocompress.errors import ExitCode, TargetError

if TYPE_CHECKING:
    from autocompress.hardware.hosts import AgentReport
    from autocompress.hardware.targets import Target

NAME = "targets"
HELP = "tell which targets can be used here, and why others cannot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress targets``."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these targets, by name or path")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def run(args: argparse.Namespace) -> int:
    """Ask every engine of every profile, each only once."""
    from autocompress.specs.library import list_specs

    probes: dict[tuple[str, str | None, str], AgentReport] = {}
    if args.names:
        rows = [_row(name, "", probes) for name in args.names]
    else:
        rows = [_row(entry.name, entry.problem, probes) for entry in list_specs("target")]
    if args.json:
        print(json.dumps(rows))
    else:
        _show(rows)
    return ExitCode.DONE


def _row(name: str, problem: str, probes: dict[tuple[str, str | None, str], AgentReport]) -> dict[str, Any]:
    """One target as plain values; a wrong profile is a row too."""
    if problem:
        return {"target": name, "usable": False, "problem": problem, "engines": [], "unusable": []}
    from autocompress.hardware.targets import inspect_target
    from autocompress.specs.library import load_spec

    profile = load_spec("target", name)
    try:
        target = inspect_target(profile, probes=probes)
    except TargetError as error:
        return {"target": profile.name, "usable": False, "problem": str(error), "engines": [], "unusable": []}
    return {"target": profile.name, "usable": target.usable, "problem": "", **_plain(target)}


def _plain(target: Target) -> dict[str, Any]:
    values = target.to_dict()
    return {"device": target.device, **{name: values[name] for name in ("engines", "unusable", "host")}}


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for title in ("target", "usable", "engines here", "what cannot be used, and why"):
        table.add_column(title, overflow="fold")
    notices: dict[str, None] = {}
    for row in rows:
        here = [
            f"{engine['name']} {engine['version']}: {', '.join(engine['precisions'])}; {engine['threads']} threads"
            for engine in row["engines"]
        ]
        missing = [
            f"{each['name']}: {each['reason']}" + (f" ({each['remedy']})" if each["remedy"] else "")
            for each in row["unusable"]
        ]
        notices |= {each["notice"]: None for each in [*row["engines"], *row["unusable"]] if each["notice"]}
        table.add_row(
            row["target"],
            "yes" if row["usable"] else "no",
            "\n".join(here),
            "\n".join([row["problem"], *missing] if row["problem"] else missing),
        )
    console = Console()
    # Markup is off: a reason may hold brackets.
    console.print(table, markup=False)
    host = next((row["host"] for row in rows if row.get("host")), None)
    if host is not None:
        console.print(f"this machine: {host['name']}, {host['cpu_model']}, {host['cores']} cores", highlight=False)
    for notice in notices:
        console.print(f"note: {notice}", highlight=False)
