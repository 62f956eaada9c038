"""List what can be named on the command line, and where it comes from.

Files in the working directory's search_spaces/, objectives/, hw_profiles/ and studies/ come before those in your
configuration folder, and those before the built-in ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.errors import ExitCode
from autocompress.specs.library import Kind, SpecEntry, list_specs

KINDS: Mapping[str, Kind] = {"targets": "target", "spaces": "space", "objectives": "objective", "studies": "study"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress list``."""
    parser.add_argument("kind", metavar="KIND", choices=[*KINDS, "models"], help=f"{', '.join(KINDS)} or models")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def run(args: argparse.Namespace) -> int:
    """List one kind."""
    rows = _model_rows() if args.kind == "models" else [_row(entry) for entry in list_specs(KINDS[args.kind])]
    if args.json:
        print(json.dumps(rows))
    else:
        print(table([_cells(row) for row in rows]) if rows else f"no {args.kind}")
    return ExitCode.DONE


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in aligned columns, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(entry: SpecEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "origin": entry.origin,
        "path": str(entry.path),
        "description": entry.description,
        "shadows": list(entry.shadows),
        "problem": entry.problem,
    }


def _model_rows() -> list[dict[str, Any]]:
    from autocompress.models import get_family, list_families

    return [
        {"name": name, "origin": "built-in", "description": get_family(name).description} for name in list_families()
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    shadows = row.get("shadows") or []
    origin = f"{row['origin']} (hides {', '.join(shadows)})" if shadows else str(row["origin"])
    text = f"WRONG: {row['problem']}" if row.get("problem") else str(row["description"])
    return [str(row["name"]), origin, text]
