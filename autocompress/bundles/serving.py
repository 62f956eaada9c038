"""Which of a bundle's files runs on a target that it may not have been made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autocompress.bundles.manifest import Manifest, Model
from autocompress.errors import BundleError
from autocompress.hardware.gate import refuse_model
from autocompress.hardware.targets import Engine, Target


@dataclass(frozen=True)
class ServedModel:
    """A model file with the engine that runs it.

    Attributes:
        model: of the bundle.
        engine: of the target.
        precision: number format to compute in.
    """

    model: Model
    engine: Engine
    precision: str


def serving_on(folder: Path, manifest: Manifest, target: Target) -> ServedModel:
    """The file that was made for the target, or else for one of its engines, or else one that an engine can run.

    Args:
        folder: of the bundle.
        manifest: its manifest.
        target: with usable engines.

    Raises:
        BundleError: no engine of the target can run any of the files; the text says why.
    """
    reasons: list[str] = []
    mine = sorted(manifest.models, key=lambda each: (each.target or manifest.target) != target.name)
    pairs = [(model, engine) for model in mine for engine in target.engines if engine.name == model.engine]
    pairs += [(manifest.deployable_model, engine) for engine in target.engines]
    for model, engine in pairs:
        reason = refuse_model(folder / model.file, engine, memory_bytes=target.memory_bytes)
        precision = model.precision
        if precision not in engine.precisions:
            # What is computed from a float32 file can be computed in float32 too; quantized files cannot.
            if precision == "int8" or "fp32" not in engine.precisions:
                reason = reason or f"does not compute in {precision} there, only in {', '.join(engine.precisions)}"
            precision = "fp32"
        if reason is None:
            return ServedModel(model, engine, precision)
        reasons.append(f"{engine.name}: {reason}")
    told = "; ".join(dict.fromkeys(reasons)) or "it has no engine"
    raise BundleError(f"{target.name} cannot run bundle {manifest.name}: {told}; search with --target {target.name}")
