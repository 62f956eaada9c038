"""Calibrating a target: measure a few networks on each of its engines, and learn to predict the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.hardware.cache import LatencyCache
from autocompress.hardware.candidates import export_untrained, noise
from autocompress.hardware.gate import engines_for
from autocompress.hardware.measure import measure
from autocompress.hardware.prediction import (
    GraphCosts,
    Prediction,
    PredictorKey,
    Roofline,
    Sample,
    fit,
    graph_costs,
    save_predictor,
)
from autocompress.hardware.prediction.fit import MIN_FOR_CORRECTION
from autocompress.hardware.records import Measurement
from autocompress.hardware.samples import SampleStore
from autocompress.hardware.targets import Engine, Target
from autocompress.hardware.turnstile import Turnstile

if TYPE_CHECKING:
    from autocompress.specs.schemas import HardwareProfile

ENOUGH = MIN_FOR_CORRECTION
"""Fewer samples only scale the estimate (`autocompress.hardware.prediction.fit`), and say nothing about its error."""
CLOSE = 0.1
_PARTS = 10


@dataclass(frozen=True)
class Networks:
    """What configurations are built as.

    Attributes:
        family: name of the model family.
        in_channels, num_classes: of the networks.
    """

    family: str = "dae-former"
    in_channels: int = 1
    num_classes: int = 9

    def subject(self, config: CompressionConfig) -> str:
        """Text that is another one for every network."""
        return f"{self.family}/{self.in_channels}/{self.num_classes}/{config.identifier}"


@dataclass(frozen=True)
class Observation:
    """What one engine did with one network.

    Attributes:
        measurement: which may be a failure.
        costs: of the file that the engine ran.
    """

    measurement: Measurement
    costs: GraphCosts


Examine = Callable[[CompressionConfig, Sequence[Engine]], Mapping[str, Observation]]
"""Builds a configuration and measures it with some engines; the answer is by engine name. `UserError` skips it."""


@dataclass(frozen=True)
class Examiner:
    """The usual `Examine`: exports with random weights, reads the costs from each file, and measures.

    Attributes:
        target: see `autocompress.hardware.targets.resolve_target`.
        networks: what configurations are built as.
        cache: of latencies; None for none.
        remeasure: measure also what the cache knows.
    """

    target: Target
    networks: Networks = Networks()
    cache: LatencyCache | None = field(default_factory=LatencyCache)
    remeasure: bool = False

    def __call__(self, config: CompressionConfig, engines: Sequence[Engine]) -> Mapping[str, Observation]:
        """Measure one configuration with some engines of the target."""
        kind, side = self.networks, config.resolution
        with tempfile.TemporaryDirectory(prefix="autocompress-calibrate-") as scratch:
            # Inside a step, so that the export disturbs no other process' measurement.
            with Turnstile().step():
                files = export_untrained(
                    config,
                    engines,
                    Path(scratch),
                    family=kind.family,
                    in_channels=kind.in_channels,
                    num_classes=kind.num_classes,
                )
                costs = {name: graph_costs(path, config.precision) for name, path in files.items()}
            found = measure(
                files,
                self.target,
                inputs=noise(4, kind.in_channels, side, side),
                config=config,
                cache=self.cache,
                remeasure=self.remeasure,
            )
        return {each.engine: Observation(each, costs[each.engine]) for each in found.measurements}


@dataclass(frozen=True)
class Step:
    """One configuration that is done.

    Attributes:
        done, total: configurations.
        label: of this one.
        latencies: p50 in milliseconds of each engine that has a usable sample.
        remarks: what was left out and why, one line each.
    """

    done: int
    total: int
    label: str
    latencies: Mapping[str, float]
    remarks: tuple[str, ...] = ()


Listener = Callable[[Step], None]


@dataclass
class Collected:
    """What one engine did with all configurations.

    Attributes:
        store: of its samples, those of earlier calibrations included.
        samples: of these configurations, in their order.
        disturbed: labels of those that others disturbed in every attempt.
        failures: one line for each configuration that the engine failed on.
    """

    store: SampleStore
    samples: list[Sample] = field(default_factory=list)
    disturbed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """How well latencies were predicted that the predictor had not seen; all are shares, 0.1 is 10 %.

    Attributes:
        count: of predictions.
        median, p90: of the absolute errors.
        within: share of the predictions with an error of at most 10 %.
        coverage: share of the measurements inside the prediction's interval, meant to be 0.9.
        memory: median of the absolute errors of the memory; None where none was measured.
    """

    count: int
    median: float
    p90: float
    within: float
    coverage: float
    memory: float | None

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sample, Prediction]]) -> Scores:
        """From at least one sample with its prediction."""
        errors = np.array([abs(made.latency_ms / sample.latency_ms - 1) for sample, made in pairs])
        inside = [made.low_ms <= sample.latency_ms <= made.high_ms for sample, made in pairs]
        memory = [abs(made.memory_bytes / each.memory_bytes - 1) for each, made in pairs if each.memory_bytes]
        return cls(
            count=len(pairs),
            median=float(np.median(errors)),
            p90=float(np.quantile(errors, 0.9)),
            within=float(np.mean(errors <= CLOSE)),
            coverage=float(np.mean(inside)),
            memory=float(np.median(memory)) if memory else None,
        )


@dataclass(frozen=True)
class Calibration:
    """What came of one engine.

    Attributes:
        engine, version: of the engine.
        samples: that its predictor was made from, those of earlier calibrations included.
        disturbed: measurements that were left out, because others used the machine meanwhile.
        failures: one line for each configuration that the engine failed on.
        scores: each tenth of the samples predicted from the others; None with fewer than `ENOUGH`.
        path: where the predictor is kept; None where there was no sample.
    """

    engine: str
    version: str
    samples: int
    disturbed: int
    failures: tuple[str, ...]
    scores: Scores | None
    path: Path | None

    @property
    def shortage(self) -> str:
        """One line where there were too few samples; empty where there were enough."""
        if self.samples >= ENOUGH:
            return ""
        count = f"{self.samples} usable measurement{'' if self.samples == 1 else 's'}"
        if not self.samples:
            return f"{self.engine}: {count}, so that no predictor was made"
        return (
            f"{self.engine}: {count} only, by which a rough estimate was scaled; to learn from them takes {ENOUGH}: "
            "raise --measurements, or calibrate again while the machine is idle"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "failures": list(self.failures), "path": None if self.path is None else str(self.path)}


def first_guess(profile: HardwareProfile) -> Roofline:
    """The coefficients that a calibration begins with: from the profile's figures."""
    peaks = None if profile.peak_gflops is None else {str(name): rate for name, rate in profile.peak_gflops.items()}
    return Roofline.from_profile(peaks, profile.bandwidth_gbs, profile.launch_us)


def calibrate(
    target: Target,
    configs: Sequence[CompressionConfig],
    start: Roofline,
    *,
    networks: Networks = Networks(),
    examine: Examine | None = None,
    remeasure: bool = False,
    listener: Listener | None = None,
    samples_folder: Path | None = None,
    predictors_folder: Path | None = None,
) -> tuple[Calibration, ...]:
    """Measure configurations on every engine of a target, and keep a predictor for each.

    A predictor is made from all samples of its engine, those of earlier calibrations included, so that a second family
    adds to the first.

    Args:
        target: see `autocompress.hardware.targets.resolve_target`.
        configs: see `autocompress.hardware.spread.spread`.
        start: coefficients to begin with; see `first_guess`.
        networks: what configurations are built as.
        examine: measures one configuration; an `Examiner` by default.
        remeasure: forget all earlier samples and measurements.
        listener: is told each configuration that is done.
        samples_folder, predictors_folder: None for those in the user's cache.

    Returns:
        One for each engine, in the order of the target.

    Raises:
        UserError: a folder cannot be written to.
    """
    found = collect(
        target,
        configs,
        networks=networks,
        examine=examine,
        remeasure=remeasure,
        listener=listener,
        folder=samples_folder,
    )
    return tuple(_calibrated(target, engine, found[engine.name], start, predictors_folder) for engine in target.engines)


def collect(
    target: Target,
    configs: Sequence[CompressionConfig],
    *,
    networks: Networks = Networks(),
    examine: Examine | None = None,
    remeasure: bool = False,
    listener: Listener | None = None,
    folder: Path | None = None,
) -> dict[str, Collected]:
    """Measure configurations on every engine of a target that can run them; parameters as in `calibrate`.

    Every sample is kept as soon as it is there: interrupted, the same call goes on where it was.
    """
    look = examine or Examiner(target, networks, remeasure=remeasure)
    power = [target.host.get("power"), target.power_mode]
    found = {
        engine.name: Collected(SampleStore(PredictorKey.of(target, engine), power, folder)) for engine in target.engines
    }
    if remeasure:
        for each in found.values():
            each.store.forget()
    for number, config in enumerate(configs, 1):
        subject = networks.subject(config)
        able, _ = engines_for(config, target)
        remarks = _examine(config, subject, [e for e in able if found[e.name].store.get(subject) is None], found, look)
        latencies = {}
        for engine in able:
            sample = found[engine.name].store.get(subject)
            if sample is not None:
                found[engine.name].samples.append(sample)
                latencies[engine.name] = sample.latency_ms
        if listener is not None:
            listener(Step(number, len(configs), config.label, latencies, remarks))
    return found


def _examine(
    config: CompressionConfig, subject: str, engines: Sequence[Engine], found: Mapping[str, Collected], look: Examine
) -> tuple[str, ...]:
    """Measure one configuration and keep what can be used; what cannot, as remarks."""
    if not engines:
        return ()
    try:
        observations = look(config, engines)
    except UserError as error:
        for engine in engines:
            found[engine.name].failures.append(f"{config.label}: {error}")
        return (f"{config.label} is skipped: {error}",)
    remarks = []
    for name, observation in observations.items():
        measurement = observation.measurement
        if measurement.latency is None or not measurement.ok:
            found[name].failures.append(f"{config.label}: {measurement.message}")
            remarks.append(f"{config.label} is skipped: {measurement.message}")
        elif measurement.disturbed:
            found[name].disturbed.append(config.label)
            remarks.append(f"{config.label} is left out: others used the machine while {name} was timed")
        else:
            memory = measurement.peak_memory_bytes
            found[name].store.put(
                subject, Sample(observation.costs, measurement.latency.p50, memory or None, config.label)
            )
    return tuple(remarks)


def _calibrated(
    target: Target, engine: Engine, collected: Collected, start: Roofline, folder: Path | None
) -> Calibration:
    samples = collected.store.all()
    path, scores = None, None
    if samples:
        processor = target.host.get("cpu_model") or target.host.get("name") or target.name
        threads = f"{engine.threads} thread{'' if engine.threads == 1 else 's'}"
        predictor = fit(samples, start, where=f"{processor}, {threads}")
        path = save_predictor(PredictorKey.of(target, engine), predictor, folder)
    if len(samples) >= ENOUGH:
        scores = Scores.of(list(left_out(samples, start)))
    return Calibration(
        engine.name, engine.version, len(samples), len(collected.disturbed), tuple(collected.failures), scores, path
    )


def left_out(samples: Sequence[Sample], start: Roofline) -> Iterable[tuple[Sample, Prediction]]:
    """Each sample with its prediction by a predictor that has not seen its tenth of the samples; ten fits."""
    order = np.random.default_rng(0).permutation(len(samples)).tolist()
    for first in range(min(_PARTS, len(samples))):
        part = set(order[first::_PARTS])
        predictor = fit([sample for row, sample in enumerate(samples) if row not in part], start)
        for row in sorted(part):
            yield samples[row], predictor.predict(samples[row].costs)
