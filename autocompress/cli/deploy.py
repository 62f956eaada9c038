"""Put a bundle on a board over SSH: send it, build its engine there, check its outputs and its latency.

The bundle stays in ~/autocompress/NAME on the board; what to type to run it is printed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.cli.arguments import add_host_argument, with_hosts
from autocompress.errors import BundleError, ExitCode, UserError

if TYPE_CHECKING:
    from autocompress.bundles import Manifest, VerifyReport
    from autocompress.hardware.hosts.ssh import SshHost
    from autocompress.hardware.targets import Target

ENGINE_FILE = "model.engine"
INPUT_FILE = "input.bin"
"""A sample input as trtexec reads it."""
_MARKS = {"passed": "ok     ", "failed": "FAILED ", "skipped": "skipped"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress deploy``."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of the bundle")
    parser.add_argument("--target", metavar="NAME", help="hardware profile by name or path [the bundle's]")
    add_host_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Deploy one bundle to one board, or to each of several."""
    from autocompress.bundles import read_manifest
    from autocompress.hardware.targets import Hosts, on_hosts
    from autocompress.specs.library import load_spec

    manifest = read_manifest(args.bundle)
    profile = with_hosts(load_spec("target", args.target or manifest.target), args)
    if profile.host.kind != "ssh":
        raise UserError(
            f"target {profile.name} is this machine, where a bundle runs as it is: "
            "autocompress predict; name the target of a board with --target"
        )
    results = []
    # Without an address the first line of `_deploy` says how to give one.
    for alone in [on_hosts(profile, Hosts((each,))) for each in profile.host.address] or [profile]:
        result = _deploy(args.bundle, manifest, alone)
        results.append(result)
        print(json.dumps(result) if args.json else _told(result), flush=True)
    failed = [check for result in results for check in result["checks"] if check["status"] == "failed"]
    if failed:
        raise BundleError(
            f"{args.bundle} was deployed but does not work there: {failed[0]['name']}: {failed[0]['detail']}"
        )
    return ExitCode.DONE


def _deploy(folder: Path, manifest: Manifest, profile: Any) -> dict[str, Any]:
    from autocompress.bundles.files import checked_file
    from autocompress.bundles.manifest import MANIFEST_FILE
    from autocompress.bundles.serving import serving_on
    from autocompress.bundles.verify import Serving, verify_serving
    from autocompress.hardware.hosts.address import addresses
    from autocompress.hardware.hosts.deploying import add_file, deploy_files
    from autocompress.hardware.hosts.ssh import SshHost
    from autocompress.hardware.targets import resolve_target

    host = SshHost(addresses(profile.host)[0])
    target = resolve_target(profile)
    served = serving_on(folder, manifest, target)
    files = {name: checked_file(folder, manifest, name) for name in manifest.files}
    with tempfile.TemporaryDirectory(prefix="autocompress-deploy-") as scratch:
        sample = _sample_input(folder, Path(scratch) / INPUT_FILE)
        there = deploy_files(
            host, folder.resolve().name, {**files, MANIFEST_FILE: folder / MANIFEST_FILE, INPUT_FILE: sample}
        )
    report = verify_serving(folder, served.model, Serving(target, served.engine, served.precision))
    built = _built(report)
    if built:
        add_file(host, there, ENGINE_FILE, built["engine_file"])
    return {
        "bundle": str(folder),
        "host": host.name,
        "folder": there,
        "target": target.name,
        "file": served.model.file,
        "engine": f"{served.engine.name} {served.engine.version}",
        "precision": served.precision,
        "checks": report.to_dict()["checks"],
        "measurements": report.to_dict()["measurements"],
        "run": _commands(folder, there, host, target, built),
    }


def _sample_input(folder: Path, to: Path) -> Path:
    """The first recorded input as raw float32."""
    from autocompress.bundles.files import read_arrays
    from autocompress.bundles.manifest import SAMPLE_FILE

    read_arrays(folder / SAMPLE_FILE)["inputs"][:1].astype("<f4").tofile(to)
    return to


def _built(report: VerifyReport) -> Mapping[str, str]:
    """On the board: the engine that was built (``engine_file``) and the program that runs it (``trtexec``)."""
    for measurement in report.measurements:
        details = measurement.conditions.get("engine_details", {})
        if "engine_file" in details:
            return {name: str(details[name]) for name in ("engine_file", "trtexec") if name in details}
    return {}


def _commands(folder: Path, there: str, host: SshHost, target: Target, built: Mapping[str, str]) -> list[str]:
    """What to type: from here, and on the board."""
    from_here = (
        f"autocompress predict {shlex.quote(str(folder))} IMAGE --out LABELS --target {target.name} --host {host.name}"
    )
    login = f"{host.address.ssh_command} -t"
    if "trtexec" in built:
        command = f"--loadEngine={ENGINE_FILE} --loadInputs=input:{INPUT_FILE} --exportOutput=output.json"
        program = shlex.quote(built["trtexec"])
        return [from_here, f"{login} {shlex.quote(f'cd {shlex.quote(there)} && {program} {command}')}"]
    return [from_here, f"{login} {shlex.quote(f'cd {shlex.quote(there)} && less README.md')}"]


def _told(result: dict[str, Any]) -> str:
    lines = [f"{result['bundle']} is on {result['host']} in {result['folder']}"]
    lines += [f"{result['file']} by {result['engine']} in {result['precision']}"]
    lines += [f"  {_MARKS[check['status']]}  {check['name']}: {check['detail']}" for check in result["checks"]]
    lines += ["to run it, from here and there:", *(f"  {command}" for command in result["run"])]
    return "\n".join(lines)
