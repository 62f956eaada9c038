"""Measure how long a model takes on a target, with every engine that can be used there; the fastest is marked.

MODEL is an ONNX file, an exported program (for torch), a bundle, or a JSON file with a compression configuration, which
is built with random weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autocompress.cli.arguments import add_host_argument, engine_names, with_hosts
from autocompress.config import PRECISIONS, CompressionConfig
from autocompress.errors import ExitCode, TargetError, UserError

if TYPE_CHECKING:
    from autocompress.data.dataset import FloatArray
    from autocompress.hardware.measure import MeasurementSet
    from autocompress.hardware.records import Measurement
    from autocompress.hardware.targets import Target
    from autocompress.specs.schemas import HardwareProfile

NAME = "measure"
HELP = "measure the latency of a model, bundle or configuration on a target"


@dataclass(frozen=True)
class Subject:
    """What is measured: files by engine name (or one for all), the configuration, the precision, and the input."""

    files: Path | Mapping[str, Path]
    precision: str
    inputs: FloatArray
    config: CompressionConfig | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress measure``."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="ONNX file, exported program, folder of a bundle, or JSON file of a configuration",
    )
    parser.add_argument(
        "--target", metavar="NAME", default="cpu", help="hardware profile by name or path (default cpu)"
    )
    add_host_argument(parser)
    parser.add_argument("--engines", metavar="A,B", help="only these engines of the target")
    parser.add_argument("--threads", metavar="N", type=int, help="threads of the engines; the profile's by default")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="number format to compute in; the model's own by default"
    )
    parser.add_argument("--input", metavar="NPY", help="images as N x C x R x R float32; noise by default")
    parser.add_argument("--predict", action="store_true", help="predict the figures of a target that is not at hand")
    parser.add_argument("--remeasure", action="store_true", help="measure also what was measured before")
    parser.add_argument("--family", default="dae-former", help="model family of a configuration (default dae-former)")
    parser.add_argument(
        "--in-channels", metavar="N", type=int, default=1, help="of a configuration's network (default 1)"
    )
    parser.add_argument("--classes", metavar="N", type=int, default=9, help="of a configuration's network (default 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure one model."""
    from autocompress.hardware.cache import LatencyCache
    from autocompress.hardware.measure import measure
    from autocompress.hardware.predicted import find_target
    from autocompress.specs.library import load_spec

    source = Path(args.model)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give an ONNX file, a bundle or a configuration as JSON")
    profile = with_hosts(_with_threads(load_spec("target", args.target), args.threads), args)
    target = find_target(profile, engines=engine_names(args.engines), predict=args.predict)
    with tempfile.TemporaryDirectory(prefix="autocompress-measure-") as scratch:
        subject = _subject(source, args, target, Path(scratch))
        found = measure(
            subject.files,
            target,
            inputs=subject.inputs,
            config=subject.config,
            precision=subject.precision,
            cache=LatencyCache(),
            remeasure=args.remeasure,
        )
    if found.best is None:
        raise TargetError(f"no engine of target {target.name} ran {source}: {found.reasons}")
    if args.json:
        print(json.dumps(_plain(source, target, subject, found)))
    else:
        _show(source, target, subject, found)
    return ExitCode.DONE


def _with_threads(profile: HardwareProfile, threads: int | None) -> HardwareProfile:
    if threads is None:
        return profile
    if threads < 1:
        raise UserError(f"--threads {threads}: at least 1 is needed")
    engines = tuple(engine.model_copy(update={"threads": threads}) for engine in profile.engines)
    return profile.model_copy(update={"engines": engines})


def _subject(source: Path, args: argparse.Namespace, target: Target, scratch: Path) -> Subject:
    given = None if args.input is None else _read_input(Path(args.input))
    if source.is_dir():
        return _of_bundle(source, target, args.precision, given)
    if source.suffix == ".json":
        return _of_config(source, args, target, scratch, given)
    return _of_file(source, args.precision, given)


def _read_input(path: Path) -> FloatArray:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--input {path} cannot be read as .npy: {str(error).splitlines()[0]}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 4 or array.dtype != np.float32 or len(array) == 0:
        raise UserError(f"--input {path} must be an array N x C x R x R of float32")
    return cast("FloatArray", array)


def _of_bundle(folder: Path, target: Target, precision: str | None, given: FloatArray | None) -> Subject:
    from autocompress.bundles.files import read_arrays
    from autocompress.bundles.manifest import SAMPLE_FILE, read_manifest
    from autocompress.paths import inside

    manifest = read_manifest(folder)
    inputs = cast("FloatArray", read_arrays(folder / SAMPLE_FILE)["inputs"]) if given is None else given
    # Each engine gets the file that was made for it, for this target before others, and any other engine the file that
    # may be deployed.
    models = sorted(manifest.models, key=lambda model: model.target == target.name)
    files = _ForEngines(
        {model.engine: inside(folder, model.file) for model in models},
        inside(folder, manifest.deployable_model.file),
    )
    return Subject(files, precision or manifest.model.precision, inputs)


class _ForEngines(dict[str, Path]):
    """Files by engine name, with one for all others."""

    def __init__(self, files: Mapping[str, Path], other: Path) -> None:
        super().__init__(files)
        self._other = other

    def get(self, name: str, default: Any = None) -> Path:
        """The file for an engine."""
        return super().get(name, self._other)


def _of_config(
    path: Path, args: argparse.Namespace, target: Target, scratch: Path, given: FloatArray | None
) -> Subject:
    from autocompress.hardware.candidates import export_untrained, noise
    from autocompress.hardware.gate import engines_for
    from autocompress.paths import read_json

    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(
            f'{path} must hold one compression configuration as a JSON object, such as {{"resolution": 64}}'
        )
    config = CompressionConfig.from_dict(values)
    if args.in_channels < 1 or args.classes < 2:
        raise UserError("--in-channels must be at least 1 and --classes at least 2")
    able, reasons = engines_for(config, target)
    if not able:
        raise TargetError(f"target {target.name} cannot run {config.label}: {'; '.join(reasons)}")
    files = export_untrained(
        config, able, scratch, family=args.family, in_channels=args.in_channels, num_classes=args.classes
    )
    side = config.resolution
    inputs = noise(4, args.in_channels, side, side) if given is None else given
    return Subject(files, args.precision or config.precision, inputs, config)


def _of_file(path: Path, precision: str | None, given: FloatArray | None) -> Subject:
    from autocompress.bundles.exported_program import is_exported_program, read_exported_program
    from autocompress.hardware.candidates import noise
    from autocompress.hardware.gate import declared_input, parse, stored_precision

    if is_exported_program(path):
        program = read_exported_program(path)
        if given is None:
            given = noise(4, *program.input_shape[1:])
        return Subject(path, precision or "fp32", given)
    model = parse(path.read_bytes())
    if model is None:
        raise UserError(f"{path} is not an ONNX file")
    if given is None:
        shape = declared_input(model)
        if len(shape) != 4 or any(axis is None for axis in shape[1:]):
            raise UserError(f"{path} takes an input of no fixed size N x C x R x R; give one with --input")
        given = noise(4, *(int(axis) for axis in shape[1:] if axis is not None))
    return Subject(path, precision or stored_precision(model), given)


def _plain(source: Path, target: Target, subject: Subject, found: MeasurementSet) -> dict[str, Any]:
    return {
        "model": str(source),
        "target": target.name,
        "precision": subject.precision,
        "config": None if subject.config is None else subject.config.to_dict(),
        "best": None if found.best is None else found.best.engine,
        **found.to_dict(),
        "notices": _notices(target, found),
    }


def _notices(target: Target, found: MeasurementSet) -> list[str]:
    used = {each.engine for each in found.measurements if each.ok}
    return [engine.notice for engine in target.engines if engine.notice and engine.name in used]


def _show(source: Path, target: Target, subject: Subject, found: MeasurementSet) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{source} on {target.name}, {subject.precision}, batch 1")
    # Few devices tell their energy.
    energy = any(each.energy_joules is not None for each in found.measurements)
    for name in ("engine", "p50 ms", "p90 ms", "p99 ms", "FPS", "peak MB", *(["mJ"] if energy else []), ""):
        table.add_column(name, justify="left" if name in ("engine", "") else "right", overflow="fold")
    for each in found.measurements:
        table.add_row(*_row(each, best=each is found.best, energy=energy))
    console = Console()
    console.print(table)
    for line in _protocol(found):
        console.print(line, highlight=False)
    for notice in _notices(target, found):
        console.print(f"note: {notice}", highlight=False)
    sys.stdout.flush()


def _protocol(found: MeasurementSet) -> list[str]:
    return [
        f"{each.engine}: {each.latency.runs} runs on {each.conditions.get('threads')} threads of "
        f"{each.conditions.get('cpu_model')}, p90 within {each.latency.p90_interval[0]:.3f} to "
        f"{each.latency.p90_interval[1]:.3f} ms (95 %)"
        if each.measured
        else f"{each.engine}: predicted from {each.conditions.get('basis')}; "
        f"between {each.latency.p90_interval[0]:.3f} and {each.latency.p90_interval[1]:.3f} ms (90 %)"
        for each in found.measurements
        if each.latency is not None
    ]


def _row(each: Measurement, *, best: bool, energy: bool) -> list[str]:
    name = f"{each.engine} {each.engine_version}"
    latency = each.latency
    if not each.ok or latency is None:
        return [name, *[""] * (6 if energy else 5), f"{each.outcome}: {each.message.removeprefix(f'{each.engine}: ')}"]
    marks = ["best"] if best else []
    marks += ["measured" if each.measured else "predicted"]
    marks += ["disturbed by other work"] if each.disturbed else []
    marks += ["from an earlier run"] if each.conditions.get("from_cache") else []
    return [
        name,
        f"{latency.p50:.3f}",
        f"{latency.p90:.3f}",
        f"{latency.p99:.3f}",
        f"{1000 / latency.p50:.1f}",
        "" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes / 1e6:.0f}",
        *([_millijoules(each)] if energy else []),
        ", ".join(marks),
    ]


def _millijoules(each: Measurement) -> str:
    return "" if each.energy_joules is None else f"{1e3 * each.energy_joules:.3g}"
