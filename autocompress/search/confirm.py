"""Confirmation of a front member: the untouched test volumes, a second measurement, and its bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autocompress.errors import UserError
from autocompress.paths import write_json
from autocompress.search.clock import Clock
from autocompress.search.evaluate import evaluate_file, evaluate_there
from autocompress.search.outcome import FrontMember, OnTarget
from autocompress.search.records import (
    CONFIRM_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    TrialRequest,
    TrialResult,
)
from autocompress.search.trial import LONGER, train_longer
from autocompress.search.variants import Variant, Variants, places_of, seen_by

if TYPE_CHECKING:
    from autocompress.bundles import ModelFile
    from autocompress.config import CompressionConfig
    from autocompress.data.dataset import Dataset, FloatArray, Split
    from autocompress.hardware.records import Measurement
    from autocompress.hardware.targets import Target
    from autocompress.hardware.turnstile import Turnstile
    from autocompress.training.metrics import DiceReport

DEPLOYABLE_TARGET = "cpu-onnxruntime"
"""Where the second file of a bundle is measured whose own engine is for evaluation only."""


@dataclass(frozen=True)
class _Confirmed:
    """A member on one target: measured again, judged on the test volumes, with its answer to the sample inputs."""

    place: Variants
    measurement: Measurement
    report: DiceReport | None
    model: ModelFile

    @property
    def evaluation_only(self) -> bool:
        from autocompress.bundles.manifest import EVALUATION_ONLY

        return self.measurement.engine in EVALUATION_ONLY


def confirm_member(values: Mapping[str, Any]) -> None:
    """Confirm one trial (in a worker): its last act is to write ``confirmed.json`` into the trial's folder.

    A trial whose Dice is too low after the further training is not confirmed, and gets no such file.

    Args:
        values: ``trial``, a `TrialRequest` as plain values; ``study``; ``seed``; ``bundles``, the folder for them;
            ``longer_seconds`` of further training before that, 0 for none; ``min_dice`` in percent, or None.

    Raises:
        UserError: the engine failed, or the bundle does not pass its own verification.
    """
    from safetensors.torch import load_file

    from autocompress.bundles import Complexity, Metrics, bundle_name, collect_provenance, write_bundle
    from autocompress.data import open_dataset
    from autocompress.hardware.turnstile import Turnstile
    from autocompress.training.metrics import DICE_RULE

    clock = Clock()
    request = TrialRequest.from_dict(values["trial"])
    folder = Path(request.folder)
    result = TrialResult.load(folder)
    if result is None or result.measurement is None or result.dice is None:
        raise UserError(f"trial {request.number} has no complete result to confirm")
    before, config = result, result.config
    seconds = values["longer_seconds"]
    longer = TrialResult.load(folder / LONGER)  # of a confirmation that did not come to its end
    if longer is None and seconds > 0:
        longer = train_longer(request, result, seconds, clock)
    if longer is not None:
        result, folder = longer, folder / LONGER
    assert result.dice is not None  # further training keeps what it is judged by
    if result.dice < (values["min_dice"] or 0.0):
        return
    dataset = open_dataset(**request.data)
    turnstile = Turnstile()
    places = places_of(request, dataset, turnstile)
    sample = places[0].sample(config.resolution, count=2)
    files = (result.file, *(each.file for each in result.others))
    confirmed = [
        _confirm(request, place, seen_by(place, config, places), folder / file, earlier, sample, clock)
        for place, file, earlier in zip(places, files, result.tried, strict=True)
    ]
    first = confirmed[0]
    # The lowest of all targets, as in the search.
    report = min((each.report for each in confirmed if each.report), key=lambda each: each.mean, default=None)
    models = [each.model for each in confirmed]
    if all(each.evaluation_only for each in confirmed):
        with clock.phase("export"):
            models.append(_deployable(request, folder, dataset, turnstile, sample))
    recipe = Path(request.folder) / RECIPE_FILE
    # Layouts that do not tell the spacing have ones.
    unit: Literal["mm", "voxels"] = "voxels" if next(dataset.volumes("validation")).spacing == (1.0, 1.0, 1.0) else "mm"
    # Verification runs the network in PyTorch and in its engine: not while another worker measures.
    with clock.phase("export"), turnstile.step():
        measured = all(each.measurement.measured for each in confirmed)
        bundle = Path(values["bundles"]) / bundle_name(config, trial=request.number, measured=measured)
        manifest = write_bundle(
            bundle,
            config=config,
            family=request.family,
            in_channels=dataset.in_channels,
            classes=dataset.class_names,
            target=first.place.target.name,
            models=models,
            state_dict=load_file(folder / WEIGHTS_FILE),
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
            recipe=recipe.read_text() if recipe.exists() else None,
            replace=True,
        )
        here = len(places) == 1 and not (first.place.target.predicted or first.evaluation_only)
        _check(bundle, first.place.target if here else None)
    member = FrontMember(
        trial=request.number,
        config=config,
        dice=result.dice,
        dice_test=None if report is None else report.mean,
        latency_ms=_percentiles(first.measurement),
        measured=first.measurement.measured,
        engine=first.measurement.engine,
        parameters=manifest.complexity.parameters,
        gmacs=manifest.complexity.gmacs,
        size_bytes=manifest.size_bytes,
        bundle=bundle,
        others=tuple(
            OnTarget(
                target=each.place.target.name,
                latency_ms=_percentiles(each.measurement),
                measured=each.measurement.measured,
                engine=each.measurement.engine,
                size_bytes=manifest.files[model.file].size_bytes,
                file=model.file,
            )
            for each, model in zip(confirmed[1:], manifest.models[1:], strict=False)
        ),
        longer_seconds=0.0 if longer is None else longer.seconds["train"],
        was={"dice": before.dice, "latency_ms": list(before.latencies_ms(request.percentile))},
    )
    write_json(
        Path(request.folder) / CONFIRM_FILE,
        {
            "member": member.to_dict(),
            "measurement": first.measurement.to_dict(),
            "others": {each.place.target.name: each.measurement.to_dict() for each in confirmed[1:]},
            "per_class": dict(result.per_class),
            "per_class_test": {} if report is None else report.per_class,
            "hd95": None if report is None else report.hd95_mean,
            "hd95_per_class": {} if report is None else report.hd95_per_class,
            "hd95_unit": unit,
            "seconds": clock.seconds(),
        },
    )


def _confirm(
    request: TrialRequest,
    place: Variants,
    config: CompressionConfig,
    file: Path,
    before: Sequence[Measurement],
    sample: FloatArray,
    clock: Clock,
) -> _Confirmed:
    """One target: the file measured again, judged on the test volumes, and its answer to the sample inputs."""
    from autocompress.bundles import ModelFile
    from autocompress.hardware.infer import infer

    engine = place.target.engine(before[0].engine)
    with clock.phase("measure"):
        variant = place.measure(Variant(config, {engine.name: file}), remeasure=True)
    measurement = variant.measurements[0]
    if measurement.latency is None:
        raise UserError(f"trial {request.number} could not be measured again: {measurement.message}")
    report = None
    with clock.phase("evaluate"), place.room():
        how: dict[str, Any] = {"resolution": config.resolution, "precision": config.precision, "hd95": True}
        how |= {"threads": request.threads, "turnstile": place.turnstile}
        tested = bool(place.dataset.cases("test"))
        if place.target.remote:
            split: Split = "test" if tested else "validation"
            judged, parity = evaluate_there(file, engine, place.target, place.dataset, split, **how)
            conditions = {**measurement.conditions, "parity": {"split": split, **parity.to_dict()}}
            measurement = replace(measurement, conditions=conditions)
            report = judged if tested else None
        elif tested:
            report = evaluate_file(file, engine, place.target, place.dataset, "test", **how)
    output = next(infer(file, engine, place.target, [sample], precision=config.precision, turnstile=place.turnstile))
    others = tuple(each for each in before if each.engine != engine.name)
    several = place.target.name if request.others else None
    return _Confirmed(place, measurement, report, ModelFile(file, (measurement, *others), output, target=several))


def _percentiles(measurement: Measurement) -> dict[str, float]:
    latency = measurement.latency
    assert latency is not None  # else it could not be confirmed
    return latency.percentiles


def _deployable(
    request: TrialRequest, folder: Path, dataset: Dataset, turnstile: Turnstile, sample: FloatArray
) -> ModelFile:
    """The same weights for an engine whose licence allows more than evaluation, with its own latency."""
    from safetensors.torch import load_file

    from autocompress.bundles import ModelFile
    from autocompress.hardware.infer import infer
    from autocompress.hardware.targets import resolve_target
    from autocompress.models import build
    from autocompress.specs.library import load_spec

    target = resolve_target(load_spec("target", DEPLOYABLE_TARGET))
    variants = Variants(request, target, dataset, turnstile)
    config = request.config.dense()
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
