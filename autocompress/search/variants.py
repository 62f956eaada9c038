"""A configuration's network as the files that the engines of a target run, and what they took."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.config import CompressionConfig
from autocompress.data.dataset import Dataset, FloatArray
from autocompress.data.preprocess import to_network
from autocompress.errors import TargetError
from autocompress.hardware.cache import LatencyCache
from autocompress.hardware.gate import engines_for
from autocompress.hardware.measure import measure
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
    """Exports and measures the networks of one trial.

    Args:
        request: the trial.
        dataset: its data; real slices are fed to the engine, training slices calibrate a quantization.
        turnstile: of this host.
    """

    def __init__(self, request: TrialRequest, dataset: Dataset, turnstile: Turnstile) -> None:
        self.target = Target.from_dict(request.target)
        self._request = request
        self._dataset = dataset
        self._turnstile = turnstile
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
    ) -> Variant:
        """Write the network in the form and precision that each engine wants.

        Args:
            model: the network.
            config: its configuration.
            folder: where the files go.
            engine: only the file for this one.
            untrained: the weights are not final: zeros are put where magnitude pruning would put them now.
        """
        from autocompress.bundles.export import export_onnx

        if untrained and config.prune_pattern == "unstructured":
            model = _with_zeros(model, config.prune_ratio)
        make_dir(folder)
        plain: dict[int, Path] = {}
        files: dict[str, Path] = {}
        for each in self._engines(config, engine):
            if each.opset not in plain:
                plain[each.opset] = folder / f"opset{each.opset}.onnx"
                export_onnx(
                    model,
                    plain[each.opset],
                    in_channels=self._dataset.in_channels,
                    resolution=config.resolution,
                    opset=each.opset,
                )
            files[each.name] = self._converted(plain[each.opset], each, config)
        return Variant(config, files)

    def measure(self, variant: Variant, *, remeasure: bool = False, engine: str | None = None) -> Variant:
        """Measure a variant with every engine that it has a file for, or one of them."""
        files = variant.files if engine is None else {engine: variant.files[engine]}
        found = measure(
            files,
            self.target,
            inputs=self.sample(variant.config.resolution),
            config=variant.config,
            metric=self._request.percentile,
            cache=self._cache,
            remeasure=remeasure,
            turnstile=self._turnstile,
        )
        return replace(variant, measurements=found.measurements)

    def sample(self, resolution: int, count: int = 4) -> FloatArray:
        """Real network inputs: slices from the middle of the first validation volume."""
        volume = next(self._dataset.volumes("validation"))
        middle = max(0, (len(volume.image) - count) // 2)
        return to_network(volume.image[middle : middle + count], resolution)

    def _engines(self, config: CompressionConfig, name: str | None) -> tuple[Engine, ...]:
        able, reasons = engines_for(config, self.target)
        chosen = tuple(each for each in able if name is None or each.name == name)
        if not chosen:
            raise TargetError("; ".join(reasons) or f"target {self.target.name} has no engine {name!r}")
        return chosen

    def _converted(self, path: Path, engine: Engine, config: CompressionConfig) -> Path:
        from autocompress.compression.precision import calibration_slices, convert

        # bf16 is a way of computing, not of storing.
        if config.precision in ("fp32", "bf16"):
            return path
        converted = path.with_name(f"{path.stem}-{engine.name}-{config.precision}.onnx")
        calibration = None
        if config.precision == "int8":
            calibration = calibration_slices(self._dataset.slices(config.resolution).images)
        convert(
            path,
            converted,
            config.precision,
            calibration=calibration,
            engine=engine.name,
            threads=self._request.threads,
        )
        return converted


def _with_zeros(model: nn.Module, ratio: float) -> nn.Module:
    """A copy in which the smallest weights of each prunable layer are zero."""
    import torch

    from autocompress.compression.pruning import prunable_weights

    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name in prunable_weights(pruned):
            weight = pruned.get_parameter(name)
            count = round(ratio * weight.numel())
            if count:
                threshold = weight.abs().flatten().kthvalue(count).values
                weight[weight.abs() <= threshold] = 0
    return pruned
