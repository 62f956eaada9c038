"""Writing a bundle: a folder that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.bundles.exported_program import SUFFIX, is_exported_program
from autocompress.bundles.files import checked_file, describe_file
from autocompress.bundles.manifest import (
    DEPLOYABLE_FILE,
    EVALUATION_ONLY,
    MODEL_FILE,
    README_FILE,
    RECIPE_FILE,
    SAMPLE_FILE,
    SCHEMA,
    WEIGHTS_FILE,
    Complexity,
    Manifest,
    Metrics,
    Preprocessing,
    Provenance,
    read_manifest,
    seal,
)
from autocompress.bundles.readme import readme_text
from autocompress.config import CompressionConfig, Precision
from autocompress.data.dataset import FloatArray
from autocompress.errors import BundleError
from autocompress.hardware.records import Measurement
from autocompress.paths import make_dir


@dataclass(frozen=True)
class ModelFile:
    """A model file on its way into a bundle.

    Attributes:
        path: an ONNX file with the input ``input`` and the output ``logits``, everything in that one file; for torch,
            an exported program.
        measurements: the one by the engine that it was made for first, then those by others.
        sample_output: what that engine answered to the sample inputs, N x classes x resolution x resolution.
        precision: number format that the engine computes in; that of the configuration where None.
        target: name of the hardware profile that it was made for, where the study had several.
    """

    path: Path
    measurements: Sequence[Measurement]
    sample_output: FloatArray
    precision: Precision | None = None
    target: str | None = None


def bundle_name(config: CompressionConfig, *, trial: int | None = None, measured: bool = True) -> str:
    """Folder name such as ``trial-012-64px-L2-w0.25-depthwise-fp32``; predicted latencies show in it."""
    parts = [] if trial is None else [f"trial-{trial:03d}"]
    parts += config.label.split(" ")
    return "-".join(parts if measured else [*parts, "predicted"])


def model_names(models: Sequence[ModelFile]) -> tuple[str, ...]:
    """Names in a bundle of its model files: the endings tell ONNX files from exported programs."""
    names = []
    for index, model in enumerate(models):
        stem = Path(MODEL_FILE if index == 0 or model.target else DEPLOYABLE_FILE).stem
        target = f"-{model.target}" if index and model.target else ""
        ending = SUFFIX if is_exported_program(model.path) else Path(MODEL_FILE).suffix
        names.append(f"{stem}{target}{ending}")
    return tuple(names)


def write_bundle(
    folder: Path,
    *,
    config: CompressionConfig,
    family: str,
    in_channels: int,
    classes: Sequence[str],
    target: str,
    models: Sequence[ModelFile],
    state_dict: Mapping[str, Any],
    sample_inputs: FloatArray,
    metrics: Metrics,
    complexity: Complexity,
    provenance: Provenance,
    preprocessing: Preprocessing | None = None,
    licences: Sequence[str] = (),
    recipe: str | None = None,
    replace: bool = False,
) -> Manifest:
    """Write a bundle.

    The folder is made beside its place under another name and then renamed, so that a reader never sees a part of it,
    whatever happens meanwhile.

    Args:
        folder: the bundle; its parent is made where it is missing.
        models: the files that the study judged, one for each target; then, where the licences of their engines allow
            evaluation only, one for an engine that may be deployed.
        state_dict: weights as torch tensors or NumPy arrays, by the names of the network that
            `autocompress.build` makes of ``config``.
        sample_inputs: N x channels x resolution x resolution, real slices as the network saw them; N of 1 to 4 is
            enough for the parity check and keeps the bundle small.
        licences: conditions that people have to know; those of the engines are added.
        recipe: text of a pruning recipe (YAML) to keep with the model.
        replace: put the new bundle in the place of a different one.

    Returns:
        The manifest as written. Where the very same bundle is already there, nothing is written.

    Raises:
        BundleError: something else is at ``folder``, the parts contradict each other, or the disk is full.
    """
    _check_parts(models, sample_inputs, config, in_channels, len(classes))
    make_dir(folder.parent)
    names = model_names(models)
    try:
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
    except OSError as error:
        raise BundleError(f"cannot write bundle {folder}: {error.strerror}") from error
    try:
        partial.chmod(0o755)
        entries = []
        sample = {"inputs": sample_inputs}
        for name, model in zip(names, models, strict=True):
            shutil.copyfile(model.path, partial / name)
            key = f"outputs.{name}"
            sample[key] = model.sample_output
            entries.append(
                {
                    "file": name,
                    "engine": model.measurements[0].engine,
                    "precision": model.precision or config.precision,
                    "measurements": [measurement.to_dict() for measurement in model.measurements],
                    "sample_output": key,
                    "target": model.target,
                }
            )
        (partial / WEIGHTS_FILE).write_bytes(_safetensors(state_dict))
        (partial / SAMPLE_FILE).write_bytes(_safetensors(sample))
        if recipe is not None:
            (partial / RECIPE_FILE).write_text(recipe, encoding="utf-8")
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "name": folder.name,
            "configuration": config.to_dict(),
            "identifier": config.identifier,
            "family": family,
            "in_channels": in_channels,
            "classes": tuple(classes),
            "preprocessing": preprocessing or Preprocessing(),
            "metrics": metrics,
            "target": target,
            "models": entries,
            "complexity": complexity,
            "size_bytes": (partial / names[0]).stat().st_size,
            "provenance": provenance,
            "licences": _licences(models, licences),
        }
        (partial / README_FILE).write_text(
            readme_text(seal({**values, "files": _describe_all(partial)})), encoding="utf-8"
        )
        manifest = seal({**values, "files": _describe_all(partial)})
        manifest.save(partial)
        _sync(partial)
        return _put_in_place(partial, folder, manifest, replace=replace)
    except OSError as error:
        raise BundleError(f"cannot write bundle {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_parts(
    models: Sequence[ModelFile], inputs: FloatArray, config: CompressionConfig, channels: int, classes: int
) -> None:
    if not models:
        raise BundleError("a bundle holds at least one model file")
    names = model_names(models)
    if len(set(names)) < len(names):
        raise BundleError("a bundle holds one model file for each target, and one more for deployment")
    side = config.resolution
    if inputs.ndim != 4 or inputs.shape[0] < 1 or inputs.shape[1:] != (channels, side, side):
        raise BundleError(f"sample inputs have shape {inputs.shape} instead of N x {channels} x {side} x {side}")
    for model in models:
        if not model.measurements:
            raise BundleError(f"{model.path} comes without a measurement")
        expected = (inputs.shape[0], classes, side, side)
        if model.sample_output.shape != expected:
            raise BundleError(f"sample outputs of {model.path} have shape {model.sample_output.shape}, not {expected}")


def _licences(models: Sequence[ModelFile], given: Sequence[str]) -> tuple[str, ...]:
    engines = [model.measurements[0].engine for model in models]
    notes = [EVALUATION_ONLY[engine] for engine in engines if engine in EVALUATION_ONLY]
    return tuple(dict.fromkeys([*notes, *given]))


def _describe_all(folder: Path) -> dict[str, Any]:
    return {path.name: describe_file(path).model_dump() for path in sorted(folder.iterdir())}


def _safetensors(tensors: Mapping[str, Any]) -> bytes:
    import numpy as np

    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors.numpy import save

        return bytes(save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))
    import torch
    from safetensors.torch import save as save_torch

    # A clone each: safetensors refuses tensors that share memory, as views of one parameter do.
    plain = {name: torch.as_tensor(value).detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return bytes(save_torch(plain))


def _sync(folder: Path) -> None:
    """Force the files to disk, so that the rename cannot come to be before its content."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put_in_place(partial: Path, folder: Path, manifest: Manifest, *, replace: bool) -> Manifest:
    if not folder.exists() and not folder.is_symlink():
        partial.rename(folder)
        return manifest
    existing = _existing(folder)
    if existing is None:
        raise BundleError(f"{folder} is there and is not a bundle; remove it or choose another folder")
    same = _same_content(existing, manifest)
    if same and _intact(folder, existing):
        return existing
    if not same and not replace:
        raise BundleError(f"{folder} already holds another bundle; remove it or choose another folder")
    aside = partial.with_name(f"{partial.name}-old")
    folder.rename(aside)
    partial.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _existing(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except BundleError:
        return None


def _intact(folder: Path, manifest: Manifest) -> bool:
    try:
        for name in manifest.files:
            checked_file(folder, manifest, name)
    except BundleError:
        return False
    return True


def _same_content(one: Manifest, other: Manifest) -> bool:
    """Whether two bundles differ in nothing but the moment at which they were written."""

    def content(manifest: Manifest) -> dict[str, Any]:
        values = manifest.to_dict()
        del values["digest"]
        del values["provenance"]["created"]
        return values

    return content(one) == content(other)
