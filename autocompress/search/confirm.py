"""Confirmation of a front member: the untouched test volumes, a second measurement, and its bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocompress.errors import UserError
from autocompress.paths import write_json
from autocompress.search.clock import Clock
from autocompress.search.evaluate import evaluate_file
from autocompress.search.outcome import FrontMember
from autocompress.search.records import (
    CONFIRM_FILE,
    MODEL_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    TrialRequest,
    TrialResult,
)
from autocompress.search.variants import Variant, Variants

if TYPE_CHECKING:
    from autocompress.bundles import ModelFile
    from autocompress.data.dataset import Dataset, FloatArray
    from autocompress.hardware.targets import Target
    from autocompress.hardware.turnstile import Turnstile

DEPLOYABLE_TARGET = "cpu-onnxruntime"
"""Where the second file of a bundle is measured whose own engine is for evaluation only."""


def confirm_member(values: Mapping[str, Any]) -> None:
    """Confirm one trial (in a worker): its last act is to write ``confirmed.json`` into the trial's folder.

    Args:
        values: ``trial``, a `TrialRequest` as plain values; ``study``; ``seed``; ``bundles``, the folder for them.

    Raises:
        UserError: the engine failed, or the bundle does not pass its own verification.
    """
    from safetensors.torch import load_file

    from autocompress.bundles import Complexity, Metrics, ModelFile, bundle_name, collect_provenance, write_bundle
    from autocompress.bundles.manifest import EVALUATION_ONLY
    from autocompress.data import open_dataset
    from autocompress.hardware.infer import infer
    from autocompress.hardware.turnstile import Turnstile
    from autocompress.training.metrics import DICE_RULE

    clock = Clock()
    request = TrialRequest.from_dict(values["trial"])
    folder = Path(request.folder)
    result = TrialResult.load(folder)
    if result is None or result.measurement is None or result.dice is None:
        raise UserError(f"trial {request.number} has no complete result to confirm")
    config = result.config
    dataset = open_dataset(**request.data)
    turnstile = Turnstile()
    variants = Variants(request, dataset, turnstile)
    engine = variants.target.engine(result.measurement.engine)
    variant = Variant(config, {engine.name: folder / MODEL_FILE})

    with clock.phase("measure"):
        variant = variants.measure(variant, remeasure=True)
    measurement = variant.measurements[0]
    if measurement.latency is None:
        raise UserError(f"trial {request.number} could not be measured again: {measurement.message}")
    with clock.phase("evaluate"), turnstile.step():
        report = None
        if dataset.cases("test"):
            report = evaluate_file(
                variant.path,
                engine,
                variants.target,
                dataset,
                "test",
                resolution=config.resolution,
                precision=config.precision,
                threads=request.threads,
                hd95=True,
                turnstile=turnstile,
            )
    # Layouts that do not tell the spacing have ones.
    unit: Literal["mm", "voxels"] = "voxels" if next(dataset.volumes("validation")).spacing == (1.0, 1.0, 1.0) else "mm"
    sample = variants.sample(config.resolution, count=2)

    output = next(
        infer(variant.path, engine, variants.target, [sample], precision=config.precision, turnstile=turnstile)
    )
    others = tuple(each for each in result.measurements if each.engine != engine.name)
    models = [ModelFile(variant.path, (measurement, *others), output)]
    if engine.name in EVALUATION_ONLY:
        with clock.phase("export"):
            models.append(_deployable(request, dataset, turnstile, sample))
    # Verification runs the network in PyTorch and in its engine: not while another worker measures.
    with clock.phase("export"), turnstile.step():
        name = bundle_name(config, trial=request.number, measured=measurement.measured)
        state = load_file(folder / WEIGHTS_FILE)
        recipe = (folder / RECIPE_FILE).read_text() if (folder / RECIPE_FILE).exists() else None
        bundle = Path(values["bundles"]) / name
        manifest = write_bundle(
            bundle,
            config=config,
            family=request.family,
            in_channels=dataset.in_channels,
            classes=dataset.class_names,
            target=variants.target.name,
            models=models,
            state_dict=state,
            sample_inputs=sample,
            metrics=Metrics(
                dice=result.dice,
                per_class=dict(result.per_class),
                cases=len(dataset.cases("validation")),
                dice_test=None if report is None else report.mean,
                per_class_test={} if report is None else report.per_class,
                cases_test=None if report is None else len(report.cases),
                hd95=None if report is None else report.hd95_mean,
                hd95_per_class={} if report is None else report.hd95_per_class,
                hd95_unit=unit,
                rule=DICE_RULE,
            ),
            complexity=Complexity(
                parameters=result.parameters or 0, gmacs=result.gmacs or 0.0, sparsity=result.sparsity
            ),
            provenance=collect_provenance(
                dataset=dataset.name,
                dataset_fingerprint=dataset.fingerprint,
                study=values["study"],
                trial=request.number,
                seed=values["seed"],
            ),
            recipe=recipe,
            replace=True,
        )
        elsewhere = variants.target.predicted or engine.name in EVALUATION_ONLY
        _check(bundle, None if elsewhere else variants.target)
    latency = measurement.latency
    member = FrontMember(
        trial=request.number,
        config=config,
        dice=result.dice,
        dice_test=None if report is None else report.mean,
        latency_ms={"p50": latency.p50, "p90": latency.p90, "p99": latency.p99},
        measured=measurement.measured,
        engine=engine.name,
        parameters=manifest.complexity.parameters,
        gmacs=manifest.complexity.gmacs,
        size_bytes=manifest.size_bytes,
        bundle=bundle,
    )
    write_json(
        folder / CONFIRM_FILE,
        {
            "member": member.to_dict(),
            "measurement": measurement.to_dict(),
            "per_class_test": {} if report is None else report.per_class,
            "hd95": None if report is None else report.hd95_mean,
            "hd95_per_class": {} if report is None else report.hd95_per_class,
            "hd95_unit": unit,
            "seconds": clock.seconds(),
        },
    )


def _deployable(request: TrialRequest, dataset: Dataset, turnstile: Turnstile, sample: FloatArray) -> ModelFile:
    """The same weights for an engine whose licence allows more than evaluation, with its own latency."""
    from safetensors.torch import load_file

    from autocompress.bundles import ModelFile
    from autocompress.hardware.infer import infer
    from autocompress.hardware.targets import resolve_target
    from autocompress.models import build
    from autocompress.specs.library import load_spec

    folder = Path(request.folder)
    target = resolve_target(load_spec("target", DEPLOYABLE_TARGET))
    variants = Variants(replace(request, target=target.to_dict()), dataset, turnstile)
    # The network of the same shape: zeros are weights like others for this engine.
    config = request.config
    if config.prune_pattern == "unstructured":
        config = replace(config, prune_pattern="none", prune_ratio=0.0)
    model = build(request.family, config, in_channels=dataset.in_channels, num_classes=len(dataset.class_names))
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    variant = variants.measure(variants.export(model, config, folder / "deployable"))
    if variant.chosen is None:
        raise UserError(
            f"trial {request.number} does not run on {DEPLOYABLE_TARGET}: {variant.measurements[0].message}"
        )
    output = next(
        infer(variant.path, variant.chosen, target, [sample], precision=config.precision, turnstile=turnstile)
    )
    return ModelFile(variant.path, variant.measurements, output)


def _check(bundle: Path, target: Target | None) -> None:
    """A bundle that does not verify does not leave."""
    from autocompress.bundles import verify_bundle

    report = verify_bundle(bundle, remeasure=False, target=target)
    failure = report.first_failure
    if failure is not None:
        shutil.rmtree(bundle)
        raise UserError(f"bundle {bundle.name} fails its own check {failure.name!r}: {failure.detail}")
