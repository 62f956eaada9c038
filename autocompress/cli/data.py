"""Describe a data set: cases, classes, sizes, intensities and problems found, with a contact sheet to look at.

PATH is a folder in the Synapse layout (train_npz/, test_vol_h5/, lists/), with NIfTI volumes (imagesTr/, labelsTr/) or
with pictures (images/, labels/); or `phantoms` for the built-in ones.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from autocompress.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress data``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    describe = actions.add_parser(
        "describe", help="describe a data set", description=__doc__, formatter_class=parser.formatter_class
    )
    describe.add_argument("path", metavar="PATH", help="folder of the data set, or `phantoms`")
    describe.add_argument("--json", action="store_true", help="print one JSON object")
    describe.add_argument(
        "--sheet", type=Path, metavar="PNG", help="where to write the contact sheet [./NAME-contact-sheet.png]"
    )


def run(args: argparse.Namespace) -> int:
    """Describe, and write the contact sheet."""
    from autocompress.data.describe import contact_sheet, describe

    description = describe(args.path)
    sheet = args.sheet or Path(f"{_short_name(args.path)}-contact-sheet.png")
    contact_sheet(args.path, sheet)
    if args.json:
        print(json.dumps({**description.to_dict(), "contact_sheet": str(sheet)}))
    else:
        print(description.to_text())
        print(f"contact sheet written to {sheet}")
    return ExitCode.DONE


def _short_name(source: str) -> str:
    """A name for a file: the folder's own, without what a file name should not have."""
    name = Path(source).resolve().name if Path(source).exists() else source
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "data"
