"""Write a study as one HTML file: the front, its members, examples, all trials, and under which conditions.

The file needs nothing else, neither other files nor a network: send it to whom you like.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.errors import ExitCode, UserError

if TYPE_CHECKING:
    from autocompress.reports.overlays import Example
    from autocompress.reports.records import StudyView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress report``."""
    parser.add_argument("study", metavar="STUDY", help="name of a study, or its folder")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where studies are kept [runs]")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write [report.html in the study's folder]")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="also write the front as a small picture")
    parser.add_argument("--no-examples", action="store_true", help="leave out the pictures of predictions")
    parser.add_argument("--open", choices=("yes", "no"), default="no", help="show it in a web browser [no]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    from autocompress.paths import write_bytes
    from autocompress.reports.figures import front_svg
    from autocompress.reports.html import html_report
    from autocompress.search.view import find_study, load_study_view

    folder = find_study(args.study, args.runs)
    out = args.out or folder / "report.html"
    for path in (out, args.svg):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"cannot write {path}: folder {path.parent} does not exist")
        if path is not None and path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    view = load_study_view(folder)
    examples, note = ([], "") if args.no_examples else _examples(view, folder)
    write_bytes(out, html_report(view, examples, examples_note=note).encode())
    if args.svg is not None:
        write_bytes(args.svg, front_svg(view).encode())
    if args.json:
        result = {"study": view.name, "report": str(out), "svg": None if args.svg is None else str(args.svg)}
        print(json.dumps({**result, "examples": len(examples), "note": note}))
    else:
        print(f"report written to {out}" + (f" ({note})" if note else ""))
    if args.open == "yes":
        import webbrowser

        webbrowser.open(out.resolve().as_uri())
    return ExitCode.DONE


def _examples(view: StudyView, folder: Path) -> tuple[list[Example], str]:
    """Pictures, or why there are none: a report without them is still one, for data may have moved away since."""
    from autocompress.data import open_dataset
    from autocompress.reports.overlays import example_overlays

    if not any(trial.bundle for trial in view.front_trials):
        return [], "no examples: no member of the front has a bundle yet"
    try:
        return example_overlays(view, open_dataset(**view.data), folder), ""
    except UserError as error:
        return [], f"no examples: {error}"
