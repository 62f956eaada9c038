"""Verify bundles: checksums, weights, parity with recorded outputs, and the latency here."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from autocompress.errors import BundleError, ExitCode

if TYPE_CHECKING:
    from autocompress.bundles import VerifyReport

_MARKS = {"passed": "ok     ", "failed": "FAILED ", "skipped": "skipped"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress verify``."""
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="folder of a bundle")
    parser.add_argument("--no-measure", action="store_true", help="do not measure the latency again")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each bundle, one a line")


def run(args: argparse.Namespace) -> int:
    """Verify every bundle; the first failure is told in one line."""
    from autocompress.bundles import verify_bundle

    failures: list[tuple[VerifyReport, str]] = []
    for path in args.bundles:
        report = verify_bundle(path, remeasure=not args.no_measure)
        if args.json:
            print(json.dumps(report.to_dict()), flush=True)
        else:
            _show(report)
        if (failure := report.first_failure) is not None:
            failures.append((report, f"{failure.name}: {failure.detail}"))
    if failures:
        more = f" (and {len(failures) - 1} more bundles failed)" if len(failures) > 1 else ""
        raise BundleError(f"{failures[0][0].bundle} failed verification: {failures[0][1]}{more}")
    return ExitCode.DONE


def _show(report: VerifyReport) -> None:
    print(report.bundle)
    for check in report.checks:
        print(f"  {_MARKS[check.status]}  {check.name}: {check.detail}", flush=True)
