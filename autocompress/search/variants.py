"""A configuration's network as the files that the engines of one target run, and what they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.config import CompressionConfig
from autocompress.data.dataset import Dataset, FloatArray
from autocompress.data.preprocess import to_network
from autocompress.errors import HeldBackError, TargetError
from autocompress.hardware.cache import LatencyCache
from autocompress.hardware.candidates import export_for, with_zeros
from autocompress.hardware.gate import engines_for
from autocompress.hardware.measure import measure, ranked
from autocompress.hardware.predicted import predict, predicted_measurement
from autocompress.hardware.records import Measurement
from autocompress.hardware.targets import Engine, Target
from autocompress.hardware.turnstile import Turnstile
from autocompress.paths import make_dir
from autocompress.search.records import TrialRequest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Variant:
    """One network, exported.

    Attributes:
        config: its configuration.
        files: the exported file for each engine that can run it, by the engine's name.
        measurements: the best first; empty before it was measured.
    """

    config: CompressionConfig
    files: Mapping[str, Path]
    measurements: tuple[Measurement, ...] = ()

    @property
    def chosen(self) -> str | None:
        """Name of the engine that was fastest; None where none ran it, or it was not measured."""
        return self.measurements[0].engine if self.measurements and self.measurements[0].ok else None

    @property
    def path(self) -> Path:
        """The file for the chosen engine, or the only one."""
        return self.files[self.chosen] if self.chosen is not None else next(iter(self.files.values()))

    @property
    def size_bytes(self) -> int:
        """Size of that file."""
        return self.path.stat().st_size


class Variants:
    """Exports and measures the networks of one trial for one target.

    Args:
        request: the trial.
        target: one of its targets.
        dataset: its data; real slices are fed to the engine, training slices calibrate a quantization.
        turnstile: of this host.
    """

    def __init__(self, request: TrialRequest, target: Target, dataset: Dataset, turnstile: Turnstile) -> None:
        self.target = target
        self.dataset = dataset
        self.turnstile = turnstile
        self._request = request
        self._cache = LatencyCache()

    def refusals(self, config: CompressionConfig) -> tuple[str, ...]:
        """Why no engine can make use of a configuration; empty where one can."""
        able, reasons = engines_for(config, self.target)
        return () if able else reasons

    def export(
        self,
        model: nn.Module,
        config: CompressionConfig,
        folder: Path,
        *,
        engine: str | None = None,
        untrained: bool = False,
        keep_float: int = 0,
    ) -> Variant:
        """Write the network in the form and precision that each engine wants.

        Args:
            model: the network.
            config: its configuration.
            folder: where the files go.
            engine: only the file for this one.
            untrained: the weights are not final: zeros are put where pruning would put them now.
            keep_float: with INT8, so many of the most sensitive layers stay in float32.
        """
        from autocompress.compression.precision import calibration_slices
        from autocompress.compression.pruning import with_zeros_of

        if untrained and config.prune_pattern == "unstructured":
            recipe = self._request.recipe
            model = with_zeros(model, config.prune_ratio) if recipe is None else with_zeros_of(recipe, model)
        files = export_for(
            model,
            config,
            self._engines(config, engine),
            make_dir(folder),
            in_channels=self.dataset.in_channels,
            calibration=lambda: calibration_slices(self.dataset.slices(config.resolution).images),
            threads=self._request.threads,
            keep_float=keep_float,
        )
        return Variant(config, files)

    def measure(self, variant: Variant, *, remeasure: bool = False, engine: str | None = None) -> Variant:
        """Measure a variant with every engine that it has a file for, or one of them.

        Raises:
            HeldBackError: the target's host cannot be reached.
        """
        files = variant.files if engine is None else {engine: variant.files[engine]}
        found = measure(
            files,
            self.target,
            inputs=self.sample(variant.config.resolution),
            config=variant.config,
            metric=self._request.percentile,
            cache=self._cache,
            remeasure=remeasure,
            turnstile=self.turnstile,
        )
        if self.target.remote and any(each.outcome == "lost" for each in found.measurements):
            raise HeldBackError(found.reasons)
        return replace(variant, measurements=found.measurements)

    def predict(self, variant: Variant) -> Variant:
        """A variant with predictions in place of measurements, which cannot be made now."""
        precision = variant.config.precision
        found = [
            predicted_measurement(path, self.target.engine(name), self.target, precision)
            for name, path in variant.files.items()
        ]
        return replace(variant, measurements=ranked(found, self._request.percentile))

    def screen(self, variant: Variant) -> str | None:
        """Why a variant is not worth a measurement: every engine is predicted to be too slow, by its interval."""
        limit = self._request.max_latency_ms
        if limit is None or self.target.predicted:
            return None
        lowest = []
        for name, path in variant.files.items():
            prediction = predict(path, self.target.engine(name), self.target, variant.config.precision)
            if prediction is None or prediction.low_ms <= limit:
                return None
            lowest.append(prediction.low_ms)
        return f"predicted to take {min(lowest):.2f} ms at least, above --max-latency {limit:g}; not measured"

    def room(self) -> AbstractContextManager[None]:
        """What this target's engines take of this machine while they compute: the turnstile's room, or nothing."""
        return nullcontext() if self.target.remote else self.turnstile.step()

    def sample(self, resolution: int, count: int = 4) -> FloatArray:
        """Real network inputs: slices from the middle of the first validation volume."""
        volume = next(self.dataset.volumes("validation"))
        middle = max(0, (len(volume.image) - count) // 2)
        return to_network(volume.image[middle : middle + count], resolution)

    def _engines(self, config: CompressionConfig, name: str | None) -> tuple[Engine, ...]:
        able, reasons = engines_for(config, self.target)
        chosen = tuple(each for each in able if name is None or each.name == name)
        if not chosen:
            raise TargetError("; ".join(reasons) or f"target {self.target.name} has no engine {name!r}")
        return chosen


def places_of(request: TrialRequest, dataset: Dataset, turnstile: Turnstile) -> list[Variants]:
    """The networks of one trial on each of its targets, in the study's order."""
    targets = [Target.from_dict(values) for values in (request.target, *request.others)]
    return [Variants(request, target, dataset, turnstile) for target in targets]


def seen_by(place: Variants, config: CompressionConfig, places: Sequence[Variants]) -> CompressionConfig:
    """A configuration as one of several targets sees it.

    Zeros that one target skips are weights like others to a target that gains nothing from them; where no target
    skips them, the configuration is left as it is, and is refused.
    """
    able = [each for each in places if "unstructured" in each.target.prune_patterns]
    return config if place in able or not able else config.dense()
