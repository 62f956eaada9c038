"""Targets that are not at hand: their latency and memory come from a predictor, and everything says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.errors import TargetError
from autocompress.hardware.engines import licence_notice
from autocompress.hardware.prediction.features import graph_costs
from autocompress.hardware.prediction.predictor import Prediction, Predictor
from autocompress.hardware.prediction.seeds import seeded
from autocompress.hardware.prediction.store import PredictorKey, load_predictor
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.targets import Engine, Target, Unusable, at_hand, inspect_target, resolve_target

if TYPE_CHECKING:
    from autocompress.specs.schemas import HardwareProfile

THREADS = 4
"""Of an engine of which neither the profile nor a host says how many it has."""


def find_target(profile: HardwareProfile, *, engines: Sequence[str] | None = None, predict: bool = False) -> Target:
    """A target that is measured where it is at hand, and predicted where nobody said where it is or that is asked for.

    Args:
        profile: see `autocompress.specs.schemas.HardwareProfile`.
        engines: names of the engines to use; by default all that are not used ``on_request`` only.
        predict: predict also what could be measured.

    Raises:
        TargetError: as `autocompress.hardware.targets.resolve_target`; the text names ``--predict``.
    """
    if predict or not at_hand(profile):
        return predicted_target(profile, engines=engines)
    try:
        return with_predictors(resolve_target(profile, engines=engines))
    except TargetError as error:
        raise TargetError(f"{error}; --predict goes on with predicted figures") from error


def predicted_target(profile: HardwareProfile, *, engines: Sequence[str] | None = None) -> Target:
    """The engines of a profile as it describes them, each with its predictor.

    What can be used here is taken as it is, and its stored predictor where it was calibrated
    (``autocompress calibrate``); else the predictor is seeded from published figures or the profile's peak numbers.

    Args:
        profile: see `autocompress.specs.schemas.HardwareProfile`.
        engines: names of the engines to predict; by default all that are not used ``on_request`` only.

    Raises:
        TargetError: an engine is asked for that the profile does not have.
    """
    found = inspect_target(profile, engines=engines)
    here = {engine.name: engine for engine in found.engines}
    chosen: list[Engine] = []
    left: list[Unusable] = []
    for spec in profile.engines:
        if spec.name in here:
            chosen.append(here[spec.name])
        elif (engines is None and (spec.on_request or spec.fallback)) or (
            engines is not None and spec.name not in engines
        ):
            left += [each for each in found.unusable if each.name == spec.name]
        else:
            chosen.append(
                Engine(
                    name=spec.name,
                    version="",
                    precisions=tuple(spec.precisions),
                    prune_patterns=tuple(spec.prune_patterns),
                    opset=spec.opset,
                    threads=spec.threads or THREADS,
                    device=spec.device or profile.device,
                    notice=spec.notice or licence_notice(spec.name),
                    options=dict(spec.options),
                )
            )
    if not chosen:
        raise TargetError(f"target {profile.name}: {'; '.join(each.line for each in left)}")
    real = bool(here)
    target = replace(
        found,
        engines=tuple(chosen),
        unusable=tuple(left),
        predicted=True,
        host=found.host if real else {"name": f"{profile.name} (not at hand)"},
    )
    predictors = {}
    for engine in chosen:
        known = load_predictor(PredictorKey.of(target, engine)) if real else None
        predictors[engine.name] = (known or seeded(profile)).to_dict()
    return replace(target, predictors=predictors)


def with_predictors(target: Target) -> Target:
    """A target at hand with the predictors of those of its engines that were calibrated on it."""
    known = {engine.name: load_predictor(PredictorKey.of(target, engine)) for engine in target.engines}
    return replace(target, predictors={name: each.to_dict() for name, each in known.items() if each is not None})


def with_all_predictors(target: Target, profile: HardwareProfile) -> Target:
    """A target with a predictor for each engine: the calibrated one, or one from published figures or peak numbers."""
    seed = seeded(profile).to_dict()
    return replace(target, predictors={engine.name: seed for engine in target.engines} | dict(target.predictors))


def basis_of(target: Target) -> str:
    """On what the predictions of a target rest, one line for people."""
    return "; ".join(dict.fromkeys(str(values["basis"]) for values in target.predictors.values()))


def predict(model: Path, engine: Engine, target: Target, precision: str) -> Prediction | None:
    """Latency and memory of a model; None where the target has no predictor for that engine."""
    values = target.predictors.get(engine.name)
    if values is None:
        return None
    return Predictor.from_dict(values, f"predictor of {engine.name}").predict(graph_costs(model, precision))


def predicted_measurement(model: Path, engine: Engine, target: Target, precision: str) -> Measurement:
    """A prediction in the form of a measurement that says it is none.

    All percentiles are the predicted median, ``p90_interval`` is the prediction's interval, and no run was timed. A
    model that is predicted not to fit into the target's memory has the outcome ``out_of_memory``.
    """
    prediction = predict(model, engine, target, precision)
    if prediction is None:
        raise TargetError(f"target {target.name} has no predictor for {engine.name}")
    host = str(target.host.get("name", target.name))
    conditions = {
        "target": target.name,
        "device": engine.device,
        "precision": precision,
        "threads": engine.threads,
        "basis": prediction.basis,
        "latency_interval_ms": [prediction.low_ms, prediction.high_ms],
        "memory_interval_bytes": [prediction.memory_low, prediction.memory_high],
    }
    limit = target.memory_bytes
    if limit is not None and prediction.memory_bytes > limit:
        message = (
            f"{engine.name}: predicted to need {prediction.memory_bytes / 1e6:.0f} MB of memory, "
            f"{target.name} has {limit / 1e6:.0f} MB for it"
        )
        return Measurement(
            engine.name,
            engine.version,
            host,
            "out_of_memory",
            message,
            peak_memory_bytes=prediction.memory_bytes,
            measured=False,
            conditions=conditions,
        )
    p50 = prediction.latency_ms
    return Measurement(
        engine.name,
        engine.version,
        host,
        "ok",
        latency=Latency(p50, p50, p50, p50, (prediction.low_ms, prediction.high_ms), runs=0),
        peak_memory_bytes=prediction.memory_bytes,
        measured=False,
        conditions=conditions,
    )
