"""Segment an image or a volume with a bundle.

INPUT is an .npz, .npy.h5, .nii.gz or image file; the labels are written at its own resolution, in the format that the
ending of --out names (.nii.gz, .npz, .npy.h5, .png). Where the input holds a reference, Dice is told too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.cli.arguments import add_host_argument, with_hosts
from autocompress.errors import ExitCode, UserError

_SCALING = {
    "unit": "taken as they are",
    "integer": "divided by the range of their type",
    "hounsfield": "taken for Hounsfield units, -125 to 275 of them",
    "percentile": "scaled between their percentiles 0.5 and 99.5",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress predict``."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of the bundle")
    parser.add_argument("input", metavar="INPUT", type=Path, help="image or volume to segment")
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="where to write the labels")
    parser.add_argument("--overlay", metavar="PNG", type=Path, help="also write a picture of the labels on the image")
    parser.add_argument("--slices", metavar="N", type=int, default=4, help="slices of a volume in the picture [4]")
    parser.add_argument("--threads", metavar="N", type=int, help="threads of the engine [all cores]")
    add_host_argument(parser)
    parser.add_argument("--target", metavar="NAME", help="with --host: hardware profile [the bundle's]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Read, segment, write."""
    from autocompress.bundles import load
    from autocompress.data.inputs import read_image, write_labels
    from autocompress.data.overlay import write_overlay

    _check_outputs(args)
    bundle = _on_host(args) if args.host else load(args.bundle, threads=args.threads)
    image = read_image(args.input, in_channels=bundle.manifest.in_channels)
    begun = time.perf_counter()
    labels = bundle.predict(image.pixels)
    seconds = time.perf_counter() - begun
    write_labels(args.out, labels, image)
    if args.overlay is not None:
        write_overlay(
            args.overlay, image.pixels, labels, bundle.classes, slices=args.slices, reference=_fitting(image, bundle)
        )
    counts = np.bincount(labels.ravel(), minlength=len(bundle.classes))
    result: dict[str, Any] = {
        "bundle": str(args.bundle),
        "input": str(args.input),
        "out": str(args.out),
        "overlay": None if args.overlay is None else str(args.overlay),
        "shape": list(image.shape),
        "intensities": image.scaling,
        "classes": {name: int(count) for name, count in zip(bundle.classes, counts, strict=True)},
        "dice": _dice(labels, image, bundle),
        "seconds": round(seconds, 4),
    }
    print(json.dumps(result) if args.json else _told(result))
    return ExitCode.DONE


def _on_host(args: argparse.Namespace) -> Any:
    """The bundle with its network on another machine."""
    from autocompress.bundles import read_manifest
    from autocompress.bundles.inference import load_on
    from autocompress.hardware.targets import resolve_target
    from autocompress.specs.library import load_spec

    if args.threads is not None:
        raise UserError("--threads goes with the engine here, not with --host; the profile says how many there")
    name = args.target or read_manifest(args.bundle).target
    return load_on(args.bundle, resolve_target(with_hosts(load_spec("target", name), args)))


def _check_outputs(args: argparse.Namespace) -> None:
    """Tell what cannot be written before any work is done."""
    if args.target is not None and not args.host:
        raise UserError("--target goes with --host USER@BOARD; without it a bundle runs here")
    if args.slices < 1:
        raise UserError(f"--slices must be at least 1, not {args.slices}")
    for option, path in (("--out", args.out), ("--overlay", args.overlay)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UserError(f"{option} {path}: folder {path.parent} does not exist")
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder; give the name of a file")
        if path.resolve() == args.input.resolve():
            raise UserError(f"{option} {path} is the input itself; choose another name")
    if args.overlay is not None and args.overlay.resolve() == args.out.resolve():
        raise UserError(f"--overlay and --out are the same file {args.out}; choose two names")


def _fitting(image: Any, bundle: Any) -> Any:
    """The reference that the input holds, where it is one for the classes of this network."""
    return image.label if image.label is not None and int(image.label.max()) < len(bundle.classes) else None


def _dice(labels: Any, image: Any, bundle: Any) -> dict[str, float] | None:
    from autocompress.training.metrics import dice_per_class

    reference = _fitting(image, bundle)
    if reference is None:
        return None
    scores = dice_per_class(labels, reference, len(bundle.classes))
    return {name: round(100 * float(score), 2) for name, score in zip(bundle.classes[1:], scores, strict=True)}


def _told(result: dict[str, Any]) -> str:
    slices, height, width = result["shape"]
    lines = [
        f"{result['out']}: {slices} x {height} x {width} labels in {result['seconds']:.2f} s; "
        f"intensities {_SCALING[result['intensities']]}"
    ]
    total = max(1, slices * height * width)
    for name, count in result["classes"].items():
        dice = "" if result["dice"] is None or name not in result["dice"] else f", Dice {result['dice'][name]:.1f}"
        lines.append(f"  {name}: {count} pixels ({100 * count / total:.2f} %){dice}")
    if result["overlay"]:
        lines.append(f"picture in {result['overlay']}")
    return "\n".join(lines)
