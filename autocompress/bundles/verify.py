"""Verifying a bundle: is it whole, does it do what it did when it was written, and how fast is it here?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from autocompress.bundles.files import checked_file, read_arrays
from autocompress.bundles.manifest import MANIFEST_FILE, SAMPLE_FILE, WEIGHTS_FILE, Manifest, Model, read_manifest
from autocompress.data.dataset import FloatArray
from autocompress.errors import BundleError, UserError
from autocompress.hardware.records import Measurement

if TYPE_CHECKING:
    from autocompress.hardware.targets import Engine, Target

# Largest difference between two runs of one float32 network, relative to its largest logit. Engines fuse and order
# the sums differently, which moves float32 results by some 1e-6 a layer; a wrong weight moves them by far more.
MAX_RELATIVE_ERROR = 1e-3
# Reduced precision rounds by design, differently on every CPU (VNNI or not, bfloat16 or not): there the share of
# pixels that keep their class counts: between two runs of one file by one engine, by two engines, and between the
# float32 weights and the file that was made of them.
MIN_AGREEMENT = 0.95
MIN_AGREEMENT_ELSEWHERE = 0.9
MIN_AGREEMENT_WITH_WEIGHTS = 0.8
# Runs every ONNX file, whatever engine it was made for; exported programs are for torch.
STAND_IN = "onnxruntime"


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was found.

    Attributes:
        name: what was checked.
        status: ``skipped`` where this machine cannot tell; the detail says why.
        detail: one line for people.
    """

    name: str
    status: Literal["passed", "failed", "skipped"]
    detail: str

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found."""
        return self.status != "failed"


@dataclass(frozen=True)
class VerifyReport:
    """All checks of one bundle, in order.

    Attributes:
        bundle: its folder.
        checks: those that were made; after a damaged manifest or file none of the later ones is.
        measurements: how fast its model files were here, where that was measured again.
    """

    bundle: Path
    checks: tuple[Check, ...]
    measurements: tuple[Measurement, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed or was skipped."""
        return all(check.ok for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if not check.ok), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "bundle": str(self.bundle),
            "ok": self.ok,
            "checks": [{"name": check.name, "status": check.status, "detail": check.detail} for check in self.checks],
            "measurements": [measurement.to_dict() for measurement in self.measurements],
        }


def verify_bundle(path: str | Path, *, remeasure: bool = True, target: Target | None = None) -> VerifyReport:
    """Check everything that a bundle says about itself.

    Checksums, the exported model's form, the weights against the configuration, PyTorch against the exported file,
    the exported file in its engine against its recorded outputs, and its latency. A latency cannot fail: it is
    reported beside that of the manifest, because machines differ.

    Args:
        path: folder of the bundle.
        remeasure: measure the latency again.
        target: where to run and to measure; by default the target that the manifest names, on this machine.
    """
    folder = Path(path)
    checks: list[Check] = []
    measurements: list[Measurement] = []
    report = functools.partial(VerifyReport, folder)
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return report((Check("manifest", "failed", str(error)),))
    checks.append(Check("manifest", "passed", f"{manifest.schema_version}, configuration {manifest.identifier}"))
    checks.append(_run("files", lambda: _files(folder, manifest)))
    if not checks[-1].ok:
        return report(tuple(checks))
    for model in manifest.models:
        checks.append(_run(f"model form of {model.file}", functools.partial(_form, folder, manifest, model)))
    checks.append(_run("sample", lambda: _describe_sample(_sample(folder, manifest))))
    checks.append(_run("weights", lambda: _weights(folder, manifest)))
    if not all(check.ok for check in checks):
        return report(tuple(checks))
    checks.append(_run("weights against model", lambda: _torch_parity(folder, manifest)))
    for model in manifest.models:
        try:
            serving = find_serving(manifest, model, target)
        except UserError as error:
            checks.append(Check(f"engine of {model.file}", "skipped", str(error)))
            continue
        checks.append(_run(f"parity of {model.file}", functools.partial(_parity, folder, manifest, model, serving)))
        if remeasure and checks[-1].ok:
            check, measurement = _latency(folder, manifest, model, serving)
            checks.append(check)
            measurements += [] if measurement is None else [measurement]
    return report(tuple(checks), tuple(measurements))


def verify_serving(path: str | Path, model: Model, serving: Serving) -> VerifyReport:
    """Whether one file of a bundle gives its recorded outputs in a certain engine, and how fast it is there.

    Args:
        path: folder of the bundle.
        model: one of its files.
        serving: target and engine, such as those of a board.

    Raises:
        BundleError: the bundle has no proper manifest or samples.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    checks = [_run(f"parity of {model.file}", lambda: _parity(folder, manifest, model, serving))]
    if not checks[0].ok:
        return VerifyReport(folder, tuple(checks))
    check, measurement = _latency(folder, manifest, model, serving)
    return VerifyReport(folder, (*checks, check), () if measurement is None else (measurement,))


def _run(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, "passed", work())
    except UserError as error:
        return Check(name, "failed", str(error))


def _files(folder: Path, manifest: Manifest) -> str:
    stray = sorted(entry.name for entry in folder.iterdir() if entry.name not in {MANIFEST_FILE, *manifest.files})
    if stray:
        raise BundleError(f"{folder / stray[0]} does not belong to the bundle; the manifest does not list it")
    for name in manifest.files:
        checked_file(folder, manifest, name)
    total = sum(entry.size_bytes for entry in manifest.files.values())
    return f"{len(manifest.files)} files, {total / 1e6:.2f} MB, all checksums match"


def _form(folder: Path, manifest: Manifest, model: Model) -> str:
    """Whether the file is valid, complete in itself, and has the input and output that the manifest tells."""
    import onnx

    path = folder / model.file
    if model.engine == "torch":
        return _program_form(path, manifest)
    try:
        # External data could point at any file of this machine, so it is looked for before anything is followed.
        graph = onnx.load(str(path), load_external_data=False)
        external = [one.name for one in graph.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
        if external:
            raise BundleError(f"{path} keeps the tensor {external[0]!r} in another file; a bundle's model is one file")
        onnx.checker.check_model(graph)
    except UserError:
        raise
    except Exception as error:  # protobuf's DecodeError and onnx's ValidationError share no other base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"{path} is not a valid ONNX model: {reason}") from error
    side, names = manifest.config.resolution, manifest.preprocessing
    expected = [
        (names.input_name, (1, manifest.in_channels, side, side)),
        (names.output_name, (1, len(manifest.classes), side, side)),
    ]
    found = [
        (value.name, tuple(int(axis.dim_value) for axis in value.type.tensor_type.shape.dim))
        for value in [*graph.graph.input, *graph.graph.output]
    ]
    if found != expected:
        raise BundleError(f"{path} has the inputs and outputs {found}, the manifest says {expected}")
    opset = next((entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}), None)
    return f"valid ONNX, opset {opset}, {len(graph.graph.node)} nodes"


def _program_form(path: Path, manifest: Manifest) -> str:
    from autocompress.bundles.exported_program import read_exported_program

    program, side = read_exported_program(path), manifest.config.resolution
    expected = [(1, manifest.in_channels, side, side), (1, len(manifest.classes), side, side)]
    found = [program.input_shape, program.output_shape]
    if found != expected:
        raise BundleError(f"{path} takes and gives {found}, the manifest says {expected}")
    return f"valid exported program of torch {program.torch}, {len(program.graph['nodes'])} operators"


def _weights(folder: Path, manifest: Manifest) -> str:
    """Whether the weights are those of the network that the configuration describes."""
    network = _network(folder, manifest)
    count = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    if count != manifest.complexity.parameters:
        raise BundleError(
            f"the network of {manifest.config.label} has {count} parameters, "
            f"the manifest says {manifest.complexity.parameters}"
        )
    return f"{count} parameters, as {manifest.family} {manifest.config.label} has"


def _network(folder: Path, manifest: Manifest) -> Any:
    """The PyTorch network, rebuilt from the configuration and the weights."""
    import torch

    from autocompress.models import build

    arrays = read_arrays(folder / WEIGHTS_FILE)
    elements = sum(array.size for array in arrays.values())
    if elements < manifest.complexity.parameters:
        raise BundleError(
            f"{WEIGHTS_FILE} holds {elements} numbers, fewer than the {manifest.complexity.parameters} parameters"
        )
    network = build(
        manifest.family, manifest.config, in_channels=manifest.in_channels, num_classes=len(manifest.classes)
    )
    try:
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{WEIGHTS_FILE} does not fit the network of {manifest.config.label}: {reason}") from error
    return network.eval()


def _sample(folder: Path, manifest: Manifest) -> dict[str, FloatArray]:
    """Recorded inputs and outputs, with the shapes that the manifest implies."""
    arrays = read_arrays(folder / SAMPLE_FILE)
    side = manifest.config.resolution
    count = arrays["inputs"].shape[0] if "inputs" in arrays and arrays["inputs"].ndim else 0
    expected = {"inputs": (count, manifest.in_channels, side, side)}
    expected |= {model.sample_output: (count, len(manifest.classes), side, side) for model in manifest.models}
    for name, shape in expected.items():
        if name not in arrays or count == 0 or arrays[name].shape != shape or arrays[name].dtype != np.float32:
            raise BundleError(f"{folder / SAMPLE_FILE} lacks {name!r} as float32 of shape {shape}")
    return cast(dict[str, FloatArray], arrays)


def _describe_sample(sample: Mapping[str, FloatArray]) -> str:
    return f"{len(sample['inputs'])} recorded inputs with their outputs"


def _torch_parity(folder: Path, manifest: Manifest) -> str:
    import torch

    sample = _sample(folder, manifest)
    network = _network(folder, manifest)
    with torch.inference_mode():
        answers = [network(torch.from_numpy(one[None])).float().numpy() for one in sample["inputs"]]
    return _compare(
        np.concatenate(answers),
        sample[manifest.model.sample_output],
        least=None if manifest.model.precision == "fp32" else MIN_AGREEMENT_WITH_WEIGHTS,
        what="PyTorch with these weights and the recorded outputs",
    )


def _parity(folder: Path, manifest: Manifest, model: Model, serving: Serving) -> str:
    """Whether the file gives what it gave, in the engine that it was made for and in a process of its own."""
    from autocompress.hardware.infer import EngineError, infer

    sample = _sample(folder, manifest)
    try:
        answers = list(
            infer(folder / model.file, serving.engine, serving.target, [sample["inputs"]], precision=serving.precision)
        )
    except EngineError as error:
        raise BundleError(str(error)) from error
    same = serving.reason == ""
    least = (
        None if model.precision == serving.precision == "fp32" else MIN_AGREEMENT if same else MIN_AGREEMENT_ELSEWHERE
    )
    detail = _compare(
        answers[0], sample[model.sample_output], least=least, what=f"{serving.engine.name} and the recorded outputs"
    )
    return detail if same else f"{detail} (not by {model.engine}: {serving.reason})"


def _compare(found: FloatArray, recorded: FloatArray, *, least: float | None, what: str) -> str:
    """Compare logits: by value where ``least`` is None, else by the share of pixels that keep their class."""
    if found.shape != recorded.shape:
        raise BundleError(f"{what}: shape {found.shape} against {recorded.shape}")
    if not np.isfinite(found).all():
        raise BundleError(f"{what}: the outputs hold NaN or infinite values")
    share = float((found.argmax(1) == recorded.argmax(1)).mean())
    error = float(np.abs(found - recorded).max() / max(float(np.abs(recorded).max()), 1e-12))
    figures = f"largest relative difference {error:.1e}, {100 * share:.2f} % of the pixels have the same class"
    if error > MAX_RELATIVE_ERROR if least is None else share < least:
        limit = f"a difference of {MAX_RELATIVE_ERROR:.0e}" if least is None else f"{100 * least:.0f} % at least"
        raise BundleError(f"{what} disagree: {figures}; allowed is {limit}")
    return f"{what} agree: {figures}"


def _latency(folder: Path, manifest: Manifest, model: Model, serving: Serving) -> tuple[Check, Measurement | None]:
    """Measure again, and tell the figures beside those of the manifest."""
    from autocompress.hardware.measure import measure

    name = f"latency of {model.file}"
    if serving.reason:
        return Check(name, "skipped", f"not measured again: {serving.reason}"), None
    alone = replace(serving.target, engines=(serving.engine,))
    inputs = _sample(folder, manifest)["inputs"]
    measurement = measure(folder / model.file, alone, inputs=inputs, precision=serving.precision).measurements[0]
    old, new = model.measurement.latency, measurement.latency
    if new is None or old is None:
        return Check(
            name, "failed", measurement.message or f"{serving.engine.name}: {measurement.outcome}"
        ), measurement
    before = "measured" if model.measurement.measured else "predicted"
    parts = [
        f"p50 {new.p50:.3f} ms, p90 {new.p90:.3f} ms by {serving.engine.name}",
        f"{new.p50 / old.p50:.2f} times the {old.p50:.3f} ms {before} in the manifest",
    ]
    if (there := _machine(model.measurement)) != (here := _machine(measurement)):
        parts.append(f"on another machine ({here} instead of {there})")
    if measurement.disturbed:
        parts.append("disturbed by other work here")
    return Check(name, "passed", "; ".join(parts)), measurement


def _machine(measurement: Measurement) -> str:
    cpu = measurement.conditions.get("cpu_model")
    return f"{measurement.host}, {cpu}" if cpu else measurement.host


@dataclass(frozen=True)
class Serving:
    """What runs a model file here.

    Attributes:
        target, engine, precision: as `autocompress.hardware.infer.infer` takes them.
        reason: why this is not what the manifest names; empty where it is.
    """

    target: Target
    engine: Engine
    precision: str
    reason: str = ""


def find_serving(manifest: Manifest, model: Model, target: Target | None = None) -> Serving:
    """What runs a model file here: its own engine, or else ONNX Runtime, or torch for an exported program, on the CPU.

    Args:
        manifest, model: of the bundle.
        target: where to look; by default the target that the model or else the manifest names, or ``cpu`` where there
            is none of that name here.

    Raises:
        UserError: neither engine can be used here.
    """
    found = target or _find_target(model.target or manifest.target, model.engine)
    reason = ""
    engine = next((each for each in found.engines if each.name == model.engine), None)
    if engine is not None and model.precision in engine.precisions:
        return Serving(found, engine, model.precision)
    if engine is not None:
        reason = f"{model.engine} does not compute in {model.precision} here"
    else:
        lines = [each.line for each in found.unusable if each.name == model.engine]
        reason = lines[0] if lines else f"target {found.name} has no engine {model.engine}"
    name = "torch" if model.engine == "torch" else STAND_IN
    stand_in = _local(name)
    precision = "int8" if model.precision == "int8" else "fp32"
    return Serving(stand_in, stand_in.engine(name), precision, reason)


def _find_target(name: str, engine: str) -> Target:
    from autocompress.hardware.targets import inspect_target
    from autocompress.specs import load_spec

    try:
        profile = load_spec("target", name)
    except UserError:  # a profile of the maker's own: their bundle can be checked without it
        return _local(engine)
    asked = [engine] if any(spec.name == engine for spec in profile.engines) else None
    return inspect_target(profile, engines=asked)


def _local(engine: str) -> Target:
    from autocompress.hardware.targets import inspect_target
    from autocompress.specs import load_spec

    profile = load_spec("target", "cpu")
    asked = [engine] if any(spec.name == engine for spec in profile.engines) else None
    return inspect_target(profile, engines=asked)
